// The completion as running text: letters joined, characters whole, no tokens and no tints.
import { h } from "../../lib/dom.js";

export class PlainText {
  constructor() {
    this.element = h("pre", {
      class: "tv-plain",
      hidden: true,
      dir: "auto",
      "aria-label": "Completion as plain text",
    });
  }

  /** Shows it in the place of `tokens`, or takes it away. @param {boolean} on @param {HTMLElement[]} tokens */
  toggle(on, tokens) {
    this.element.hidden = !on;
    this.element.tabIndex = on ? 0 : -1; // the view has one tab stop
    for (const element of tokens) element.hidden = on;
  }

  /** @param {Rollout} rollout */
  show({ meta }) {
    this.element.textContent = meta.completion;
    this.element.scrollTop = 0;
  }
}
