// The same prompt at other steps and in other runs.
import { h } from "./dom.js";

export class OverTime {
  /** `view` is the rollout page: its rollout, pinned token, pin(), open() and tintBy(). */
  constructor(view) {
    this.view = view;
    this.element = h("section", { class: "over-time" });
  }

  show(rollout) {}

  token(index, pinned) {}
}
