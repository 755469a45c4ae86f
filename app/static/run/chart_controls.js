// How all charts of a run are drawn: smoothing and a logarithmic axis, kept in the address.
import { logControl, SmoothingControl } from "../lib/charts/curve_controls.js";
import { h } from "../lib/dom.js";

const MOST = 0.99;

export class ChartControls {
  /** @param {() => unknown} changed */
  constructor(changed) {
    this.changed = changed;
    const query = new URLSearchParams(location.search);
    const smooth = Number(query.get("smooth"));
    this.weight = smooth > 0 && smooth <= MOST ? smooth : 0;
    this.log = query.get("logy") === "1";
    this.smoothing = new SmoothingControl("run-smooth", String(this.weight), (weight) =>
      this.choose({ weight: Number(weight) }),
    );
    const { box, element } = logControl("run-logy", "y", (on) => this.choose({ log: on === "1" }));
    box.checked = this.log;
    this.element = h(
      "div",
      { class: "chart-controls", role: "group", "aria-label": "Chart settings" },
      this.smoothing.element,
      element,
    );
  }

  /** @param {{weight?: number, log?: boolean}} change */
  choose(change) {
    Object.assign(this, change);
    this.smoothing.show(String(this.weight));
    const query = new URLSearchParams(location.search);
    query.delete("smooth");
    query.delete("logy");
    if (this.weight) query.set("smooth", String(this.weight));
    if (this.log) query.set("logy", "1");
    history.replaceState(null, "", `${location.pathname}?${query}`);
    this.changed();
  }
}
