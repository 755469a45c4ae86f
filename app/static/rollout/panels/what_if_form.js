// What stands at the token instead, and how student or teacher continue from there.
import { button, fill, h, numberField, select } from "../../lib/dom.js";
import { probability } from "../../lib/format.js";
import { bounded } from "../text/glyphs.js";
import { firstChoice, isNumber, tableOf, writtenAt } from "./alternatives.js";

const MAX_CHOICES = 12;
/** @type {Option[]} */
const AUTHORS = [
  ["both", "both"],
  ["student", "student"],
  ["teacher", "teacher"],
];

const TEMPERATURE = {
  min: 0,
  max: 10,
  step: /** @type {const} */ ("any"),
  title: "0 is greedy decoding: one sample, scored at temperature 1",
};
const LIMIT = { min: 1, max: 2048, title: "Maximum number of new tokens" };
const SEED = {
  min: 0,
  max: 2147483647,
  title: "The same request with the same seed gives the same continuation",
};

export class WhatIfForm {
  /** `on`: submit(), stop() @param {{submit: () => unknown, stop: () => unknown}} on */
  constructor(on) {
    this.choices = h("div", { class: "wi-choices" });
    this.typedRadio = h("input", {
      type: "radio",
      name: "wi-choice",
      value: "text",
      "aria-label": "A text you type",
      onchange: () => {
        this.choose("text");
        this.typed.focus();
      },
    });
    this.typed = h("input", {
      class: "field mono",
      id: "wi-text",
      maxlength: "20000",
      placeholder: "another token or text",
      "aria-label": "Another token or text",
      oninput: () => this.choose("text"),
    });
    this.group = h(
      "div",
      { class: "wi-group", role: "radiogroup", "aria-label": "Replacement" },
      this.choices,
      h("div", { class: "wi-choice wi-typed" }, this.typedRadio, this.typed),
    );
    this.authors = select(AUTHORS, "both", () => {}, { id: "wi-authors" });
    this.checkpoint = select([["newest", "newest"]], "newest", () => {}, { id: "wi-checkpoint" });
    this.samples = numberField("wi-samples", "Samples", 1, { min: 1, max: 8 });
    this.temperature = numberField("wi-temperature", "Temperature", 1, TEMPERATURE);
    this.limit = numberField("wi-limit", "New tokens", 64, LIMIT);
    this.seed = numberField("wi-seed", "Seed", 0, SEED);
    this.submit = button("Continue from here", null, { id: "wi-go", class: "btn strong", type: "submit" });
    this.stop = button("Stop", on.stop, { id: "wi-stop", hidden: true });
    this.chosen = "text"; // or the id of a listed token
    this.element = this.build(on.submit);
  }

  /** @param {() => unknown} submit */
  build(submit) {
    const numbers = [this.samples, this.temperature, this.limit, this.seed];
    /** @param {SubmitEvent} event */
    const onsubmit = (event) => {
      event.preventDefault();
      submit();
    };
    return h(
      "form",
      { class: "wi-form", onsubmit },
      labelled("Continue with", this.authors),
      labelled("Checkpoint", this.checkpoint),
      h(
        "div",
        { class: "wi-numbers" },
        numbers.map((field) => field.element),
      ),
      h("div", { class: "wi-buttons" }, this.submit, this.stop),
    );
  }

  /**
   * `busy`: an answer is awaited; `refused`: this visitor may not ask.
   * @param {{busy: boolean, refused: boolean}} options
   */
  show({ busy, refused }) {
    this.submit.disabled = busy || refused;
    this.stop.hidden = !busy;
  }

  /** @param {Run} run */
  offerCheckpoints(run) {
    const steps = (run.checkpoints ?? []).map((c) => c.step).reverse();
    const options = steps.map((step, i) => [String(step), i ? `step ${step}` : `step ${step}, newest`]);
    const { value } = this.checkpoint;
    fill(
      this.checkpoint,
      [...options, ["start", "start"]].map(([key, label]) => h("option", { value: key, text: label })),
    );
    this.checkpoint.value = [...steps.map(String), "start"].includes(value)
      ? value
      : String(steps[0] ?? "start");
  }

  /**
   * Lists the alternatives at a token (null: not known yet); the teacher's first choice is ticked.
   * @param {Rollout} rollout @param {number} position @param {Alternatives | null} alternatives
   */
  offer(rollout, position, alternatives) {
    const written = writtenAt(rollout, position);
    const kl = rollout.columns.reverse_kl?.[position] ?? 0;
    const rows = alternatives ? tableOf(alternatives, written, kl).list.slice(0, MAX_CHOICES) : [];
    const best = alternatives ? firstChoice(alternatives) : null;
    fill(
      this.choices,
      h(
        "div",
        { class: "wi-choice wi-columns muted" },
        h("span"),
        h("span", { text: "token" }),
        h("span", { class: "r", text: "student" }),
        h("span", { class: "r", text: "teacher" }),
      ),
      rows.map((row) => this.choice(row, best)),
    );
    this.choose(best ? String(best.id) : "text");
  }

  /** @param {AlternativeRow} row @param {Alternative | null} best */
  choice(row, best) {
    const key = String(row.id);
    const notes = [row.id === best?.id && "teacher’s choice", row.sampled && "written"]
      .filter(Boolean)
      .join(", ");
    /** @param {Value} value */
    const says = (value) => (isNumber(value) ? probability(value) : "–");
    return h(
      "label",
      { class: "wi-choice" },
      h("input", { type: "radio", name: "wi-choice", value: key, onchange: () => this.choose(key) }),
      h(
        "span",
        { class: "wi-token", title: [bounded(row.text), notes].filter(Boolean).join(" ") },
        h("span", { class: "mono", text: bounded(row.text) }),
        notes ? h("span", { class: "muted", text: ` ${notes}` }) : null,
      ),
      h("span", { class: "r num", text: says(row.p) }),
      h("span", { class: "r num", text: says(row.q) }),
    );
  }

  /** @param {string} key */
  choose(key) {
    /** @type {NodeListOf<HTMLInputElement>} */
    const radios = this.group.querySelectorAll("input[type=radio]");
    for (const radio of radios) radio.checked = radio.value === key;
    this.chosen = key;
  }

  /** Whether the typed text is chosen and there is none; the field then has the focus. */
  textIsMissing() {
    const missing = this.chosen === "text" && !this.typed.value;
    if (missing) this.typed.focus();
    return missing;
  }

  /** The request's fields, but for the rollout and the position. */
  values() {
    const at = this.checkpoint.value;
    return {
      ...(this.chosen === "text" ? { text: this.typed.value } : { token: Number(this.chosen) }),
      authors: this.authors.value === "both" ? ["student", "teacher"] : [this.authors.value],
      checkpoint: at === "start" || at === "newest" ? at : Number(at),
      samples: Number(this.samples.input.value),
      temperature: Number(this.temperature.input.value),
      max_new_tokens: Number(this.limit.input.value),
      seed: Number(this.seed.input.value),
    };
  }
}

/** @param {string} label @param {HTMLElement} element */
function labelled(label, element) {
  return h(
    "label",
    { class: "labelled-field", for: element.id },
    h("span", { class: "muted", text: label }),
    element,
  );
}
