// Stands for the panels that ask the server, in a report.
import { h } from "../lib/dom.js";

class Absent {
  constructor() {
    const text = h("p", { text: "Open this rollout in the dashboard: opd serve" });
    this.element = h("div", { class: "face" }, h("strong", { text: "This requires the server" }), text);
  }

  /** @type {(keyof ViewState)[]} */
  follows = [];

  update() {}
}

export { Absent as LossLab, Absent as OverTime, Absent as WhatIf };
