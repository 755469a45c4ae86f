// A dialog over the page: a head with its title, and what is given. Escape and "Close" close it.
import { button, h } from "./dom.js";

/** @param {string} title @param {...Child} children @returns {HTMLDialogElement} */
export function openDialog(title, ...children) {
  /** @type {HTMLDialogElement} */
  const dialog = h(
    "dialog",
    { class: "chooser", "aria-label": title },
    h(
      "header",
      {},
      h("h2", { text: title }),
      h("span", { class: "spacer" }),
      button("Close", () => dialog.close(), { class: "btn small" }),
    ),
    h("div", { class: "chooser-body" }, ...children),
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  (document.querySelector(".opd") ?? document.body).append(dialog);
  dialog.showModal();
  return dialog;
}
