// Stored tokens under another objective, mask, clip or prefix.
import { h } from "./dom.js";

export class LossLab {
  /** `view` is the rollout page: its rollout, pinned token, pin(), open() and tintBy(). */
  constructor(view) {
    this.view = view;
    this.element = h("section", { class: "loss-lab" });
  }

  show(rollout) {}

  token(index, pinned) {}
}
