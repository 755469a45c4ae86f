// Tells that a run has ended, by a notification of the browser, where it was asked for.
import { h } from "./dom.js";

export class Notify {
  constructor() {
    this.element = h("span");
  }

  /** To be called with every state of the run. */
  told(run) {}
}
