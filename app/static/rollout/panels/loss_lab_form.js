// The settings of the loss lab: objective, clip, which tokens count, reduction.
import { debounce, fill, h, select } from "../../lib/dom.js";
import { number } from "../../lib/format.js";

/** @type {Option[]} */
const MASKS = [
  ["trained", "As trained"],
  ["all", "All tokens"],
  ["no_special", "Without special tokens"],
  ["top_entropy", "Highest student entropy"],
  ["top_kl", "Highest reverse KL"],
  ["sure_teacher", "Teacher is sure"],
  ["thinking", "Thinking only"],
  ["answer", "Answer only"],
];
/** @type {Option[]} */
const REDUCTIONS = [
  ["", "As trained"],
  ["token_mean", "Mean over tokens"],
  ["sequence_mean", "Mean over completions"],
  ["sum", "Sum"],
];
// [parameter, label, unit, of which objectives or masks, input attributes]; an objective's own
// parameters come with the schema
/** @type {[string, string, string, string[] | null, Record<string, unknown>][]} */
const FIELDS = [
  ["clip", "Clip", "nats", null, { min: 0, max: 1000, step: "any" }],
  [
    "share",
    "Share kept",
    "",
    ["top_entropy", "top_kl"],
    { min: 0.01, max: 1, step: 0.05, placeholder: "0.2" },
  ],
  [
    "sure_below",
    "Entropy below",
    "nats",
    ["sure_teacher"],
    { min: 0, max: 100, step: 0.1, placeholder: "0.8" },
  ],
  ["start", "From position", "", null, { min: 0, max: 10_000_000, step: 1, placeholder: "0" }],
  ["prefix", "Up to position", "", null, { min: 0, max: 10_000_000, step: 1, placeholder: "the end" }],
];
const OF_TOKENS = new Set(["share", "sure_below", "start", "prefix"]);

export class LabForm {
  /** `changed()` is called once the settings are valid and rest. @param {() => unknown} changed */
  constructor(changed) {
    /** @type {Record<string, string>} */
    this.values = { mask: "trained" };
    this.own = "reverse_kl";
    /** @type {Map<string, any>} every objective by name, once described */
    this.objectives = new Map();
    this.changed = debounce(180, changed);
    this.objective = select([["", "As trained"]], "", (v) => this.set("objective", v), {
      id: "lab-objective",
    });
    this.formula = h("p", { class: "muted ll-formula" });
    this.mask = select(MASKS, "trained", (v) => this.set("mask", v), { id: "lab-mask" });
    this.reduction = select(REDUCTIONS, "", (v) => this.set("reduction", v), { id: "lab-reduction" });
    this.rows = new Map(FIELDS.map((field) => [field[0], this.row(field)]));
    this.parameters = h("div", { class: "ll-parameters" });
    /** @param {boolean} ofTokens */
    const fields = (ofTokens) =>
      FIELDS.filter(([name]) => OF_TOKENS.has(name) === ofTokens).map(
        ([name]) => this.rows.get(name)?.element,
      );
    this.reset = h(
      "button",
      { type: "button", class: "btn small quiet", onclick: () => this.clear() },
      "Reset to as trained",
    );
    this.temperature = h("span", { class: "num r" });
    this.element = h(
      "div",
      { class: "ll-form", role: "group", "aria-label": "Loss lab settings" },
      labelled("Objective", this.objective),
      this.formula,
      this.parameters,
      fields(false),
      labelled("Tokens", this.mask),
      fields(true),
      labelled("Reduction", this.reduction),
      h("div", { class: "ll-row" }, h("span", { class: "muted", text: "Temperature" }), this.temperature),
      this.reset,
    );
    this.arrange();
  }

  /**
   * What the server's table says of objectives and their parameters.
   * @param {{objectives: LabObjective[], parameters: LabParameter[]}} options
   */
  describe({ objectives, parameters }) {
    this.objectives = new Map(objectives.map((o) => [o.name, o]));
    const rows = parameters.map(({ name, label, unit, objectives: of, min, max, step }) => {
      /** @type {[string, ReturnType<LabForm["row"]>]} */
      const entry = [name, this.row([name, label, unit, of, { min, max, step }])];
      return entry;
    });
    this.rows = new Map([...rows, ...this.rows]);
    fill(
      this.parameters,
      rows.map(([, row]) => row.element),
    );
    this.offer({}, null);
  }

  /** @param {string} name */
  label(name) {
    return this.objectives.get(name)?.label ?? name;
  }

  /** Whether a token's loss may be negative. @param {string} name */
  signed(name) {
    return Boolean(this.objectives.get(name)?.signed);
  }

  /** @param {LabField} labField */
  row([name, label, unit, of, limits]) {
    const input = h("input", {
      class: "field num",
      type: "number",
      id: `lab-${name}`,
      ...limits,
      autocomplete: "off",
      oninput: () => this.typed(name, input, label),
    });
    const element = h(
      "label",
      { class: "ll-row" },
      h("span", { class: "muted", text: unit ? `${label} (${unit})` : label }),
      input,
    );
    return { element, input, of };
  }

  /** @param {string} name @param {HTMLInputElement} input @param {string} label */
  typed(name, input, label) {
    const start = name === "start" ? input.value : this.values.start;
    const prefix = name === "prefix" ? input.value : this.values.prefix;
    const crossed =
      (name === "start" || name === "prefix") && Number(prefix) > 0 && Number(prefix) <= Number(start ?? 0);
    input.setCustomValidity(crossed ? "“Up to position” must be greater than “From position”" : "");
    const wrong = !input.validity.valid;
    input.setAttribute("aria-invalid", String(wrong));
    input.title = wrong ? `${label}: ${input.validationMessage}` : "";
    if (!wrong) this.set(name, input.value);
  }

  /** @param {string} name @param {string} value */
  set(name, value) {
    if (value === "") delete this.values[name];
    else this.values[name] = value;
    this.arrange();
    this.changed();
  }

  clear() {
    this.values = { mask: "trained" };
    this.objective.value = this.reduction.value = "";
    this.mask.value = "trained";
    for (const { input } of this.rows.values()) {
      input.value = "";
      input.setAttribute("aria-invalid", "false");
    }
    this.arrange();
    this.changed();
  }

  get name() {
    return this.values.objective || this.own;
  }

  /** What to ask the server: the settings that are shown. */
  params() {
    const shown = Object.entries(this.values).filter(([name]) => !this.rows.get(name)?.element.hidden);
    return Object.fromEntries(shown);
  }

  /** Shows only the fields of this objective and mask. */
  arrange() {
    const shown = new Set([this.name, this.values.mask]);
    for (const { element, of } of this.rows.values())
      element.hidden = of !== null && !of.some((name) => shown.has(name));
    this.formula.textContent = this.objectives.get(this.name)?.formula ?? "";
    this.reset.hidden = Object.keys(this.values).length === 1 && this.values.mask === "trained";
  }

  /**
   * Lists the objectives, those that the record says nothing of with the reason.
   * @param {Record<string, string>} unavailable @param {string | null} own
   */
  offer(unavailable, own) {
    if (own) this.own = own;
    const none = own === null ? this.label(this.own) : `As trained: ${this.label(this.own)}`;
    fill(
      this.objective,
      h("option", { value: "" }, none),
      [...this.objectives.values()].map(({ name: key, label: text }) =>
        h(
          "option",
          { value: key, disabled: key in unavailable, title: unavailable[key] },
          key in unavailable ? `${text} – not in this record` : text,
        ),
      ),
    );
    this.objective.value = this.values.objective ?? "";
    this.arrange();
  }

  /**
   * The run's own settings stand where nothing is typed.
   * @param {Record<string, number | null>} resolved @param {number} temperature
   */
  placeholders(resolved, temperature) {
    for (const [name, { input }] of this.rows) {
      if (name in resolved) input.placeholder = resolved[name] === null ? "none" : number(resolved[name]);
    }
    this.temperature.textContent = temperature === undefined ? "" : `${number(temperature, 2)}, as recorded`;
  }
}

/** @param {string} text @param {HTMLElement} control */
function labelled(text, control) {
  return h("label", { class: "ll-row" }, h("span", { class: "muted", text }), control);
}
