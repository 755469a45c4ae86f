// The filters of the worst tokens: class, text, position; other filters of a link as chips.
import { button, debounce, fill, h, select } from "../lib/dom.js";
import { number } from "../lib/format.js";

/** @type {Option[]} */
const CLASSES = [
  ["", "Any class"],
  ["word", "words"],
  ["number", "numbers"],
  ["operator", "operators, punctuation"],
  ["whitespace", "whitespace"],
  ["special", "special tokens"],
  ["thinking", "thinking tags"],
  ["other", "other"],
];
const RANGES = [
  ["entropy", "student’s entropy"],
  ["heat", "KL"],
  ["advantage", "advantage"],
];

export class WorstFilters {
  /**
   * `state` by the names in the address; `change` is called with what a user changes.
   * @param {Record<string, string>} state @param {(change: Record<string, string>) => unknown} change
   */
  constructor(state, change) {
    this.state = state;
    this.change = change;
    this.chips = h("span", { class: "row" });
    this.element = h(
      "div",
      { class: "worst-filters" },
      select(CLASSES, state.class, (value) => change({ class: value }), { "aria-label": "Token class" }),
      this.typed("token_text", "Token text", { type: "search", placeholder: "Token" }),
      this.typed("min_position", "Position ≥", { type: "number", min: "0", class: "field num small-field" }),
      this.typed("max_position", "Position ≤", { type: "number", min: "0", class: "field num small-field" }),
      this.chips,
    );
  }

  /** @param {string} key @param {string} label @param {Props} props */
  typed(key, label, props) {
    const input = h("input", {
      class: "field",
      value: this.state[key],
      "aria-label": label,
      placeholder: label,
      ...props,
    });
    const changed = () => this.change({ [key]: key === "token_text" ? input.value : input.value.trim() });
    input.addEventListener("input", debounce(250, changed));
    return input;
  }

  show() {
    const { state } = this;
    const chips = RANGES.filter(([name]) => state[`min_${name}`] || state[`max_${name}`]).map(
      ([name, label]) => {
        const [low, high] = [state[`min_${name}`], state[`max_${name}`]];
        const words = [low && `from ${number(Number(low))}`, high && `below ${number(Number(high))}`]
          .filter(Boolean)
          .join(" ");
        return chip(`${label} ${words}`, () => this.change({ [`min_${name}`]: "", [`max_${name}`]: "" }));
      },
    );
    if (state.token_id) chips.push(chip(`token id ${state.token_id}`, () => this.change({ token_id: "" })));
    fill(this.chips, chips);
    this.chips.hidden = !chips.length;
  }
}

/** A filter in words, with a button that takes it off. @param {string} text @param {() => unknown} remove */
export function chip(text, remove) {
  return h(
    "span",
    { class: "chip" },
    text,
    button("×", remove, { class: "btn", "aria-label": `Remove: ${text}` }),
  );
}
