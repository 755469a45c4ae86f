// What is compared: axes, smoothing, scales, groups of seeds, and the threshold.
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
    const smoothen = debounce(120, (/** @type {string} */ smooth) => change({ smooth }));
    const aim = debounce(250, (/** @type {string} */ target) => change({ target }));
    this.x = selector("x", AXES, "Over");
    this.y = selector("y", [[state.y, labelOf(state.y)]], "Metric");
    this.second = selector("second", [[state.second, labelOf(state.second)]], "Second metric");
    this.band = selector("band", BANDS, "Band");
    this.direction = selector("direction", DIRECTIONS, "Direction");
    this.smooth = h("input", {
      type: "range",
      min: "0",
      max: "0.99",
      step: "0.01",
      value: state.smooth,
      id: "cmp-smooth",
      "aria-label": "Smoothing",
      oninput: () => smoothen(this.smooth.value),
    });
    this.smoothed = h("span", { class: "num cmp-weight" });
    this.boxes = {
      logx: this.box("logx"),
      logy: this.box("logy"),
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
      h(
        "label",
        { class: "control", title: "Moving average; the raw curve stays visible, faint" },
        h("span", { class: "muted", text: "Smoothing" }),
        this.smooth,
        this.smoothed,
      ),
      ticked("logx", "log x", "Points at 0 are not drawn"),
      ticked("logy", "log y", "Values of 0 are not drawn"),
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
    const { x, y, second, band, direction, smooth, target } = this;
    for (const [name, field] of Object.entries({ x, y, second, band, direction, smooth, target })) {
      if (field !== document.activeElement) field.value = state[/** @type {keyof CompareState} */ (name)];
    }
    for (const [name, box] of Object.entries(this.boxes))
      box.checked = state[/** @type {BoxName} */ (name)] === "1";
    this.smoothed.textContent = Number(state.smooth) ? Number(state.smooth).toFixed(2) : "off";
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
    const options = [...new Set([...names, this.state.y])].map((name) => [
      name,
      labelOf(name).split(", ")[0],
    ]);
    fillIn(this.y, options, this.state.y);
    fillIn(this.second, [["none", "none"], ...options], this.state.second);
  }
}

/** @param {string} axis */
export function axisLabel(axis) {
  return AXES.find(([key]) => key === axis)?.[1] ?? axis;
}

/** @param {string} metric */
export function labelOf(metric) {
  if (metric === "score") return "Score, pass@1 of the main suite";
  if (metric === "reverse_kl") return "Reverse KL, nats per token";
  if (metric === "none") return "none";
  return metric
    .replace(/^eval\//, "")
    .replaceAll("/", " ")
    .replaceAll("_", " ");
}
