// What a panel shows besides its data: loading, empty, error.
import { fill, h } from "./dom.js";

/** @param {Element} element @param {string} what */
export function loading(element, what) {
  fill(element, h("div", { class: "face", role: "status" }, `Loading ${what} …`));
}

/** @param {Element} element @param {string} title @param {string} why @param {Child} [action] */
export function empty(element, title, why, action) {
  fill(element, h("div", { class: "face" }, h("strong", { text: title }), h("p", { text: why }), action));
}

/** @param {Element} element @param {ShownError} error @param {(() => unknown) | null} [retry] */
export function failed(element, error, retry) {
  fill(element, errorBox(error, retry));
}

/** @param {ShownError} error @param {(() => unknown) | null} [retry] @param {Child} [more] */
export function errorBox(error, retry, more) {
  const again = retry && h("button", { type: "button", class: "btn", onclick: retry }, "Try again");
  return h(
    "div",
    { class: "face bad", role: "alert" },
    h("strong", { text: error.message }),
    error.where && h("p", { text: error.where }),
    error.hint && h("p", { text: error.hint }),
    more ? h("div", { class: "row" }, again, more) : again,
  );
}
