// What is compared: axes, smoothing, scales, groups of seeds, and the threshold.
import { logControl, SmoothingControl } from "../lib/charts/curve_controls.js";
import { metricOf } from "../lib/charts/run_metrics.js";
import { debounce, h, select } from "../lib/dom.js";

export const MOST = 12; // runs at a time
/** @type {CompareState} */
export const DEFAULTS = {
  x: "step",
  y: "score",
  second: "reverse_kl",
  smooth: "0",
  logx: "",
  logy: "",
  group: "",
  band: "range",
  target: "",
  direction: "auto",
  baseline: "",
  interpolate: "",
};
export const NAMES = /** @type {(keyof CompareState)[]} */ (Object.keys(DEFAULTS));

/** @type {Option[]} */
export const AXES = [
  ["step", "Steps"],
  ["tokens", "Student tokens"],
  ["flops", "FLOPs"],
  ["seconds", "Training time"],
];
/** @type {Option[]} */
const BANDS = [
  ["range", "lowest–highest"],
  ["standard_error", "± 1 standard error"],
];
/** @type {Option[]} */
const DIRECTIONS = [
  ["auto", "auto"],
  ["at_least", "≥ at least"],
  ["at_most", "≤ at most"],
];

export class Controls {
  /** @type {CompareState} */
  state;
  /** @type {HTMLElement} */
  bandLabel;
  /** @type {string} */
  print;

  /** @param {CompareState} state @param {(change: Partial<CompareState>) => unknown} change */
  constructor(state, change) {
    this.change = change;
    /** @param {ControlName} name @param {Option[]} options @param {string} label */
    const selector = (name, options, label) =>
      select(options, state[name], (value) => change({ [name]: value }), {
        "aria-label": label,
        id: `cmp-${name}`,
      });
    // What was typed is kept as it was then: another choice may redraw the field before the wait is over
    const aim = debounce(250, (/** @type {string} */ target) => change({ target }));
    this.x = selector("x", AXES, "Over");
    this.y = selector("y", [[state.y, metricOf(state.y).label]], "Metric");
    this.second = selector("second", [[state.second, metricOf(state.second).label]], "Second metric");
    this.band = selector("band", BANDS, "Band");
    this.direction = selector("direction", DIRECTIONS, "Direction");
    this.smoothing = new SmoothingControl("cmp-smooth", state.smooth, (smooth) => change({ smooth }));
    this.logx = logControl("cmp-logx", "x", (logx) => change({ logx }));
    this.logy = logControl("cmp-logy", "y", (logy) => change({ logy }));
    this.boxes = {
      logx: this.logx.box,
      logy: this.logy.box,
      group: this.box("group"),
      interpolate: this.box("interpolate"),
    };
    this.target = h("input", {
      class: "field narrow",
      id: "cmp-target",
      type: "number",
      step: "any",
      placeholder: "common best",
      "aria-label": "Threshold",
      oninput: () => this.target.validity.valid && aim(this.target.value),
    });
    this.element = this.bar();
    this.threshold = this.thresholdBar();
    this.show(state);
  }

  /** @param {BoxName} name */
  box(name) {
    const onchange = () => this.change({ [name]: box.checked ? "1" : "" });
    const box = h("input", { type: "checkbox", id: `cmp-${name}`, onchange });
    return box;
  }

  bar() {
    /** @param {string} text @param {...Child} inside */
    const labelled = (text, ...inside) =>
      h("label", { class: "control" }, h("span", { class: "muted", text }), inside);
    /** @param {BoxName} name @param {string} text @param {string} title */
    const ticked = (name, text, title) => h("label", { class: "control", title }, this.boxes[name], text);
    this.bandLabel = labelled("Band", this.band);
    return h(
      "div",
      { class: "cmp-controls", role: "group", "aria-label": "Chart settings" },
      labelled("Over", this.x),
      labelled("Metric", this.y),
      labelled("and", this.second),
      this.smoothing.element,
      this.logx.element,
      this.logy.element,
      ticked("group", "Group seeds", "Runs that differ only in seed and name, as their mean"),
      this.bandLabel,
    );
  }

  thresholdBar() {
    return h(
      "header",
      { class: "cmp-threshold" },
      h("h2", { text: "To reach" }),
      this.direction,
      this.target,
      h(
        "label",
        { class: "control", title: "Off: uses the first measured point that reaches it" },
        this.boxes.interpolate,
        "interpolate between points",
      ),
    );
  }

  /** Shows a state that was changed elsewhere; what is being typed stays. @param {CompareState} state */
  show(state) {
    this.state = state;
    const { x, y, second, band, direction, target } = this;
    for (const [name, field] of Object.entries({ x, y, second, band, direction, target })) {
      if (field !== document.activeElement) field.value = state[/** @type {keyof CompareState} */ (name)];
    }
    for (const [name, box] of Object.entries(this.boxes))
      box.checked = state[/** @type {BoxName} */ (name)] === "1";
    this.smoothing.show(state.smooth);
    this.bandLabel.hidden = state.group !== "1";
  }

  /** The metrics that the runs have. @param {Comparison} comparison */
  offer(comparison) {
    const names = ["score", "reverse_kl", ...comparison.metrics.filter((m) => m !== "reverse_kl")];
    const print = names.join("\n");
    if (print === this.print) return;
    this.print = print;
    /** @param {HTMLSelectElement} element @param {Option[]} options @param {string} value */
    const fillIn = (element, options, value) => {
      element.replaceChildren(...options.map(([key, label]) => h("option", { value: key, text: label })));
      element.value = value;
    };
    /** @type {Option[]} */
    const options = [...new Set([...names, this.state.y])].map((name) => [name, metricOf(name).label]);
    fillIn(this.y, options, this.state.y);
    fillIn(this.second, [["none", "none"], ...options], this.state.second);
  }
}

/** @param {string} axis */
export function axisLabel(axis) {
  return AXES.find(([key]) => key === axis)?.[1] ?? axis;
}
