// What looks wrong with a run: cards with evidence, a link, and what to change.
import { h } from "./dom.js";

export class Diagnosis {
  constructor(run) {
    this.run = run;
    this.element = h("section", { class: "diagnosis", "aria-label": "Diagnosis" });
  }

  async refresh() {}
}
