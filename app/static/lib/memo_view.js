// Redraws a part of a page where what it shows has changed, and only there.
import { fill } from "./dom.js";

export class MemoView {
  constructor(element) {
    this.element = element;
    this.print = null;
  }

  /** Fills the element with `children()` unless it shows this already; the focus stays where it is. */
  show(shown, children) {
    const print = JSON.stringify(shown);
    if (print === this.print) return;
    this.print = print;
    const held = document.activeElement;
    const focused = held !== this.element && this.element.contains(held) ? markOf(held) : null;
    fill(this.element, children());
    if (focused === null) return;
    const same = [...this.element.querySelectorAll("a, button, summary")].find((e) => markOf(e) === focused);
    if (!same) this.element.tabIndex = -1; // what had the focus is gone: the part has it
    (same ?? this.element).focus({ preventScroll: true });
  }
}

function markOf(element) {
  return element.id || element.getAttribute("href") || element.ariaLabel || element.textContent;
}
