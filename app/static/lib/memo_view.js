// Redraws a part of a page where what it shows has changed, and only there.
import { fill } from "./dom.js";

export class MemoView {
  /** @param {HTMLElement} element */
  constructor(element) {
    this.element = element;
    /** @type {string | null} */
    this.print = null;
  }

  /**
   * Fills the element with `children()` unless it shows this already; the focus stays where it is.
   * @param {unknown} shown what the children are made of, as JSON @param {() => Child} children
   */
  show(shown, children) {
    const print = JSON.stringify(shown);
    if (print === this.print) return;
    this.print = print;
    const held = document.activeElement;
    const inside = held !== null && held !== this.element && this.element.contains(held);
    const focused = inside ? markOf(held) : null;
    fill(this.element, children());
    if (focused === null) return;
    /** @type {NodeListOf<HTMLElement>} */
    const stops = this.element.querySelectorAll("a, button, summary");
    const same = [...stops].find((e) => markOf(e) === focused);
    if (!same) this.element.tabIndex = -1; // what had the focus is gone: the part has it
    (same ?? this.element).focus({ preventScroll: true });
  }
}

/** @param {Element} element */
function markOf(element) {
  return element.id || element.getAttribute("href") || element.ariaLabel || element.textContent;
}
