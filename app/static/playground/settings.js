// The playground's settings: whose models, which checkpoint, who replies, how it is sampled.
import { fill, h, numberField, select } from "../lib/dom.js";
import { plain } from "../lib/format.js";

/** @type {Option[]} */
const SPEAKERS = [
  ["both", "both, side by side"],
  ["student", "student"],
  ["teacher", "teacher"],
];

export class Settings {
  /**
   * `on.source(key)`: other models were chosen; `on.change()`: anything else.
   * @param {URLSearchParams} params @param {Run[]} runs @param {Recipe[]} recipes
   * @param {{source: (key: string) => unknown, change: () => unknown}} on
   */
  constructor(params, runs, recipes, on) {
    const run = params.get("run");
    const chosen = run ? `run:${run}` : `recipe:${params.get("recipe") ?? "demo"}`;
    this.source = select(sources(runs, recipes, chosen), chosen, on.source, { id: "pg-source" });
    this.checkpoint = select([["start", "start"]], "start", on.change, { id: "pg-step" });
    this.speakers = select(SPEAKERS, params.get("who") ?? "both", on.change, { id: "pg-who" });
    this.temperature = numberField("pg-temperature", "Temperature", params.get("temperature") ?? 1, {
      min: 0,
      max: 10,
      step: "any",
      title: "0 decodes greedily; scored at temperature 1",
    });
    this.limit = numberField("pg-limit", "New tokens", params.get("limit") ?? 128, {
      min: 1,
      max: 2048,
      title: "maximum per reply",
    });
    this.seed = numberField("pg-seed", "Seed", params.get("seed") ?? 0, { min: 0, max: 2147483647 });
    this.element = h(
      "div",
      { class: "pg-settings" },
      labelled("Models", this.source),
      labelled("Student checkpoint", this.checkpoint),
      labelled("Reply from", this.speakers),
      this.temperature.element,
      this.limit.element,
      this.seed.element,
    );
  }

  /** "run" or "recipe" and its name. @param {string} key @returns {[kind: string, name: string]} */
  static sourceOf(key) {
    return [key.slice(0, key.indexOf(":")), key.slice(key.indexOf(":") + 1)];
  }

  /** Offers a run's checkpoints, newest first, and the start. @param {number[]} steps @param {string} chosen */
  offerCheckpoints(steps, chosen) {
    const options = [
      ...steps.map((s, i) => [String(s), i ? `checkpoint ${s}` : `checkpoint ${s} (newest)`]),
      ["start", "start"],
    ];
    fill(
      this.checkpoint,
      options.map(([value, text]) => h("option", { value, text })),
    );
    const there = options.some(([value]) => value === chosen);
    this.checkpoint.value = there ? chosen : options[0][0];
  }

  /** @returns {Speaker[]} */
  get who() {
    if (this.speakers.value === "both") return ["student", "teacher"];
    return [/** @type {Speaker} */ (this.speakers.value)];
  }

  /** As the requests have it: "start", or a step. */
  get step() {
    const { value } = this.checkpoint;
    return value === "start" ? value : Number(value);
  }

  get sampling() {
    return {
      temperature: Number(this.temperature.input.value),
      max_new_tokens: Number(this.limit.input.value),
      seed: Number(this.seed.input.value),
    };
  }

  /** What the address says of them; what is as by default is left out. */
  get forAddress() {
    const { speakers, temperature } = this;
    return {
      who: speakers.value === "both" ? null : speakers.value,
      temperature: temperature.input.value === "1" ? null : temperature.input.value,
    };
  }
}

/** @param {Run[]} runs @param {Recipe[]} recipes @param {string} chosen */
function sources(runs, recipes, chosen) {
  /** @type {Option[]} */
  const options = [
    ...recipes.map(
      (r) => /** @type {Option} */ ([`recipe:${r.name}`, `Recipe: ${plain(r.title ?? r.name, 60)}`]),
    ),
    ...runs.map((r) => /** @type {Option} */ ([`run:${r.id}`, `Run: ${plain(r.name || r.id, 60)}`])),
  ];
  if (!options.some(([key]) => key === chosen)) options.push([chosen, Settings.sourceOf(chosen)[1]]);
  return options;
}

/** @param {string} label @param {HTMLElement} element */
function labelled(label, element) {
  const text = h("span", { class: "muted", text: label });
  return h("label", { class: "labelled-field", for: element.id }, text, element);
}
