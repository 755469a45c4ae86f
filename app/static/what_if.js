// Another choice at a token, and how student or coach go on from there.
import { h } from "./dom.js";

export class WhatIf {
  /** `view` is the rollout page: its rollout, pinned token, pin(), open() and tintBy(). */
  constructor(view) {
    this.view = view;
    this.element = h("section", { class: "what-if" });
  }

  show(rollout) {}

  token(index, pinned) {}
}
