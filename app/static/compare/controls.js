// What is compared: axes, smoothing, scales, groups of seeds, and the threshold.
import { debounce, h, select } from "../lib/dom.js";

export const MOST = 12; // runs at a time
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
export const AXES = [
  ["step", "Steps"],
  ["tokens", "Student tokens"],
  ["flops", "FLOPs"],
  ["seconds", "Training time"],
];
const BANDS = [
  ["range", "lowest–highest"],
  ["standard_error", "± 1 standard error"],
];
const DIRECTIONS = [
  ["auto", "auto"],
  ["at_least", "≥ at least"],
  ["at_most", "≤ at most"],
];

export class Controls {
  constructor(state, change) {
    this.change = change;
    const known = (name, options, label) =>
      select(options, state[name], (value) => change({ [name]: value }), {
        "aria-label": label,
        id: `cmp-${name}`,
      });
    // What was typed is kept as it was then: another choice may redraw the field before the wait is over
    const smoothen = debounce(120, (smooth) => change({ smooth }));
    const aim = debounce(250, (target) => change({ target }));
    this.x = known("x", AXES, "Over");
    this.y = known("y", [[state.y, labelOf(state.y)]], "Metric");
    this.second = known("second", [[state.second, labelOf(state.second)]], "Second metric");
    this.band = known("band", BANDS, "Band");
    this.direction = known("direction", DIRECTIONS, "Direction");
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
    this.boxes = Object.fromEntries(
      ["logx", "logy", "group", "interpolate"].map((name) => [name, this.box(name)]),
    );
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

  box(name) {
    return h("input", {
      type: "checkbox",
      id: `cmp-${name}`,
      onchange: (e) => this.change({ [name]: e.target.checked ? "1" : "" }),
    });
  }

  bar() {
    const labelled = (text, ...inside) =>
      h("label", { class: "control" }, h("span", { class: "muted", text }), inside);
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

  /** Shows a state that was changed elsewhere; what is being typed stays. */
  show(state) {
    this.state = state;
    for (const name of ["x", "y", "second", "band", "direction", "smooth", "target"]) {
      if (this[name] !== document.activeElement) this[name].value = state[name];
    }
    for (const [name, box] of Object.entries(this.boxes)) box.checked = state[name] === "1";
    this.smoothed.textContent = Number(state.smooth) ? Number(state.smooth).toFixed(2) : "off";
    this.bandLabel.hidden = state.group !== "1";
  }

  /** The metrics that the runs have. */
  offer(found) {
    const names = ["score", "reverse_kl", ...found.metrics.filter((m) => m !== "reverse_kl")];
    const print = names.join("\n");
    if (print === this.print) return;
    this.print = print;
    const fillIn = (element, options, value) => {
      element.replaceChildren(...options.map(([key, label]) => h("option", { value: key, text: label })));
      element.value = value;
    };
    const options = [...new Set([...names, this.state.y])].map((name) => [
      name,
      labelOf(name).split(", ")[0],
    ]);
    fillIn(this.y, options, this.state.y);
    fillIn(this.second, [["none", "none"], ...options], this.state.second);
  }
}

export function labelOf(metric) {
  if (metric === "score") return "Score, pass@1 of the main suite";
  if (metric === "reverse_kl") return "Reverse KL, nats per token";
  if (metric === "none") return "none";
  return metric
    .replace(/^eval\//, "")
    .replaceAll("/", " ")
    .replaceAll("_", " ");
}
