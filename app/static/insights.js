// Where coach and student disagree over the whole run: each point leads to its tokens.
import { h } from "./dom.js";

export class Insights {
  constructor(run) {
    this.run = run;
    this.element = h("section", { class: "insights", "aria-label": "Disagreement" });
  }

  async refresh() {}
}
