// The controls of curves that pages share: smoothing and logarithmic axes.

import { debounce, h } from "../dom.js";
import { SMOOTHING } from "./curves.js";

export class SmoothingControl {
  /** @param {string} id @param {string} weight @param {(weight: string) => unknown} change */
  constructor(id, weight, change) {
    // What was moved is kept as it was then: another choice may redraw the field before the wait is over
    const changed = debounce(120, change);
    this.field = h("input", {
      type: "range",
      min: "0",
      max: "0.99",
      step: "0.01",
      value: weight,
      id,
      "aria-label": "Smoothing",
      oninput: () => changed(this.field.value),
    });
    this.weight = h("span", { class: "num curve-weight" });
    this.method = h("span", { class: "muted curve-method", text: `${SMOOTHING}; measured values are faint` });
    this.element = h(
      "span",
      { class: "control smoothing" },
      h("label", { class: "control" }, h("span", { class: "muted", text: "Smoothing" }), this.field),
      this.weight,
      this.method,
    );
    this.show(weight);
  }

  /** @param {string} weight */
  show(weight) {
    if (this.field !== document.activeElement) this.field.value = weight;
    this.weight.textContent = Number(weight) ? Number(weight).toFixed(2) : "off";
    this.method.hidden = !Number(weight);
  }
}

/** @param {string} id @param {"x" | "y"} axis @param {(on: string) => unknown} change "1" or "" */
export function logControl(id, axis, change) {
  const box = h("input", { type: "checkbox", id, onchange: () => change(box.checked ? "1" : "") });
  const title =
    axis === "x"
      ? "Logarithmic; points at 0 are not drawn"
      : "Logarithmic; values ≤ 0 are not drawn, and each chart says how many there are";
  return { box, element: h("label", { class: "control", title }, box, `log ${axis}`) };
}
