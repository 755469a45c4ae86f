// A button that opens a list of actions.
import { h } from "./dom.js";

/**
 * Closes after an action, with Escape, and when the focus leaves it.
 * @param {Child} label @param {Child[]} items @param {Props} [opener] of the button
 */
export function menu(label, items, opener = {}) {
  const button = h("summary", { class: "btn", ...opener }, label);
  /** @type {HTMLDetailsElement} */
  const element = h(
    "details",
    {
      class: "menu",
      /** @param {MouseEvent} e */
      onclick: (e) => {
        if (e.target instanceof Element && e.target.closest(".menu-items :is(a, button)"))
          element.open = false;
      },
      /** @param {KeyboardEvent} e */
      onkeydown: (e) => {
        if (e.key !== "Escape" || !element.open) return;
        element.open = false;
        button.focus();
      },
      /** @param {FocusEvent} e */
      onfocusout: (e) => {
        if (e.relatedTarget instanceof Node && !element.contains(e.relatedTarget)) element.open = false;
      },
    },
    button,
    h("div", { class: "popup menu-items" }, items),
  );
  return element;
}

/** @param {Child[]} items */
export function actionMenu(items) {
  const element = menu("⋯", items, { class: "btn small quiet", "aria-label": "More actions" });
  element.classList.add("more-actions");
  return element;
}
