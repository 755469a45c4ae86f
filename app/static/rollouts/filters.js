// The filters of the list of rollouts; a range of steps that a link has brought as a chip.
import { button, debounce, fill, h, select } from "../lib/dom.js";
import { plain } from "../lib/format.js";
import { chip } from "./worst_filters.js";

/** @type {Option[]} */
const KINDS = [
  ["", "Any kind"],
  ["train", "train"],
  ["eval", "eval"],
  ["probe", "probe"],
  ["import", "import"],
];
/** @type {Option[]} */
const FINISH_REASONS = [
  ["", "Any finish"],
  ["stop", "finished (EOS)"],
  ["length", "truncated (length)"],
];
/** @type {Option[]} */
const GRADES = [
  ["", "Right or wrong"],
  ["true", "right"],
  ["false", "wrong"],
];
/** @type {Option[]} */
const MARKS = [
  ["", "Marked or not"],
  ["true", "marked"],
  ["false", "not marked"],
];
const COUNT = { type: "number", min: "0", class: "field num small-field" };
const NATS = { ...COUNT, step: "any" };

export class RolloutFilters {
  /**
   * `state` by the names in the address; `change` is called with what a visitor changes.
   * @param {Record<string, string>} state @param {(change: Record<string, string>) => unknown} change
   * @param {() => unknown} clear
   */
  constructor(state, change, clear) {
    this.state = state;
    this.change = change;
    this.steps = h("span", { class: "row" });
    this.teacher = this.choice("teacher", "Teacher", [[state.teacher, plain(state.teacher, 60)]]);
    this.teacher.hidden = !state.teacher;
    this.element = h(
      "div",
      { class: "page-bar filters" },
      this.typed("step", "Step", { ...COUNT, class: "field num narrow" }),
      this.steps,
      this.choice("kind", "Kind", KINDS),
      this.choice("finish_reason", "Finish reason", FINISH_REASONS),
      this.choice("correct", "Right or wrong", GRADES),
      this.teacher,
      this.choice("marked", "Marked", MARKS),
      this.typed("min_kl", "Mean KL ≥", NATS),
      this.typed("min_kl_max", "Max KL ≥", NATS),
      this.typed("min_tokens", "Tokens ≥", COUNT),
      this.typed("max_tokens", "Tokens ≤", COUNT),
      this.typed("text", "Text in prompt or completion", {
        type: "search",
        class: "field search",
        placeholder: "Search the text",
      }),
      h("span", { class: "spacer" }),
      button("Clear", clear, { class: "btn quiet" }),
    );
  }

  /** @param {string} key @param {string} label @param {Option[]} options */
  choice(key, label, options) {
    const changed = (/** @type {string} */ value) => this.change({ [key]: value });
    return select(options, this.state[key], changed, { "aria-label": label });
  }

  /** @param {string} key @param {string} label @param {Props} props */
  typed(key, label, props) {
    const value = this.state[key];
    const input = h("input", { class: "field", value, "aria-label": label, placeholder: label, ...props });
    const changed = () => this.change({ [key]: input.value.trim() });
    input.addEventListener("input", debounce(250, changed));
    return input;
  }

  /** Lists the teachers to filter by; none where fewer than two judged. @param {Judge[]} teachers */
  showTeachers(teachers) {
    const chosen = this.state.teacher;
    /** @type {Option[]} */
    const options = [["", "Any teacher"]];
    for (const { path, name } of teachers) options.push([path, plain(name, 60)]);
    if (chosen && !teachers.some(({ path }) => path === chosen)) options.push([chosen, plain(chosen, 60)]);
    this.teacher.hidden = options.length < 2;
    fill(
      this.teacher,
      options.map(([value, text]) => h("option", { value, text })),
    );
    this.teacher.value = chosen;
  }

  /** Shows the range of steps, which has no field of its own. */
  show() {
    const { min_step: from, max_step: to } = this.state;
    const remove = () => this.change({ min_step: "", max_step: "" });
    this.steps.hidden = !(from || to);
    fill(this.steps, (from || to) && chip(`steps ${from || "0"} to ${to || "last"}`, remove));
  }
}
