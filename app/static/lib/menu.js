// A button that opens a list of actions.
import { h } from "./dom.js";

/**
 * Closes after an action, with Escape, and when the focus leaves it.
 * @param {Child} label @param {Child[]} items @param {Props} [opener] of the button
 */
export function menu(label, items, opener = {}) {
  const button = h("summary", { class: "btn", ...opener }, label);
  const popup = h("div", { class: "popup menu-items" }, items);
  /** A popup stays where it is while the page moves below it. */
  const close = () => {
    element.open = false;
  };
  /** @type {HTMLDetailsElement} */
  const element = h(
    "details",
    {
      class: "menu",
      ontoggle: () => {
        if (!element.open) return removeEventListener("scroll", close, true);
        place(popup, button);
        addEventListener("scroll", close, true);
      },
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
    popup,
  );
  return element;
}

/**
 * Within the window, below the button or else above it; a table that scrolls cannot cut it off.
 * @param {HTMLElement} popup @param {HTMLElement} button
 */
function place(popup, button) {
  const { bottom, top, right } = button.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = popup;
  const below = bottom + height + 8 <= innerHeight || top < height + 8;
  const left = Math.max(8, Math.min(right, innerWidth - 8) - width);
  Object.assign(popup.style, {
    position: "fixed",
    right: "auto",
    left: `${left}px`,
    top: `${below ? bottom + 4 : top - height - 4}px`,
  });
}

/** @param {Child[]} items */
export function actionMenu(items) {
  const element = menu("⋯", items, { class: "btn small quiet", "aria-label": "More actions" });
  element.classList.add("more-actions");
  return element;
}
