// Two rollouts of one prompt: the difference token by token, and two texts where they part.
import { button, fill, h } from "../../lib/dom.js";
import { integer, plain } from "../../lib/format.js";
import { addColumns, openRollout } from "../open.js";
import { reasonAgainst, toFetch, valuesOf } from "../text/metrics.js";
import { TokenText } from "../text/tokens.js";

export class Comparison {
  /** `view` is the rollout page; the bar stands above the texts, the other text beside this one. */
  constructor(view) {
    this.view = view;
    this.wanted = null; // the id of the other rollout, as in the address
    this.other = null; // that rollout, once it is there and can be compared
    this.shown = null; // the rollout it is compared with, the view's own
    this.common = 0; // tokens from the start that both completions share
    this.turn = 0;
    this.told = h("span", { class: "cmp-text" });
    this.swap = button("Swap", () => this.swapped(), {
      class: "btn small",
      title: "Read the other one’s tokens",
    });
    this.end = button("Plain view", () => view.compare(null), {
      class: "btn small",
      title: "Stop comparing",
    });
    this.bar = h(
      "div",
      { class: "cmp-bar", role: "status", hidden: true },
      this.told,
      h("span", { class: "spacer" }),
      this.swap,
      this.end,
    );
    this.text = new TokenText(
      { hover: () => {}, pick: (index) => this.picked(index), view: () => {} },
      "The other completion, token by token",
    );
    this.element = h("section", {
      id: "token-other",
      class: "tv-other",
      hidden: true,
      "aria-label": "The other completion",
    });
    const { element: left } = view.text;
    const right = this.text.element;
    left.addEventListener("scroll", () => this.follow(left, right), { passive: true });
    right.addEventListener("scroll", () => this.follow(right, left), { passive: true });
  }

  get same() {
    return this.other !== null && this.common === this.shown.n && this.common === this.other.n;
  }

  /**
   * Fetches the other rollout (null: none) and what the metric needs of it. `shown` is the one that
   * the view shows or is about to; place(), over() and tint() then draw the two.
   */
  async with(id, shown, base) {
    const turn = ++this.turn;
    this.wanted = id;
    this.shown = shown;
    if (!id) return this.settle(null);
    this.say("Loading the other rollout …");
    try {
      const other = await openRollout(id);
      await this.complete(other, base);
      if (turn === this.turn) this.settle(other);
    } catch (error) {
      if (turn !== this.turn) return;
      this.settle(null);
      this.say(`Cannot be compared: ${error.message}.`, true);
    }
  }

  /** The columns of the other rollout that the chosen metric needs. */
  async complete(other, base) {
    if (!reasonAgainst(base, other)) await addColumns(other, toFetch(base, other));
  }

  settle(other) {
    const rollout = this.shown;
    this.other = other;
    this.common = other ? sharedStart(rollout.columns.completion_ids, other.columns.completion_ids) : 0;
    if (other && !equal(rollout.promptIds, other.promptIds)) {
      this.other = null;
      this.say("These two rollouts answer different prompts, so their tokens cannot be compared.", true);
    }
  }

  /** Shows or hides the second text; it has the same width, so that shared lines stand level. */
  place() {
    const { view, other, same } = this;
    const beside = other !== null && !same;
    const moved = this.element.hidden === beside;
    this.element.hidden = !beside;
    fill(this.element, beside && this.text.element); // one text, one tab stop, else
    view.text.diverges = beside && this.common < this.shown.n ? this.common : -1;
    if (!this.wanted) this.bar.hidden = true;
    if (moved) view.text.resized();
    this.text.clear();
    this.text.diverges = beside && this.common < other.n ? this.common : -1;
    if (beside) {
      this.text.most = view.text.columns;
      this.text.show(other);
      this.text.element.scrollTop = view.text.element.scrollTop;
    }
  }

  /** The metric to tint by: the chosen one, or its difference where two rollouts are compared. */
  over(metric) {
    const { other } = this;
    const rollout = this.shown;
    this.base = metric;
    if (!other) return metric;
    const reason =
      reasonAgainst(metric, other) || (toFetch(metric, other).length ? "its values are not here yet" : "");
    if (reason) {
      this.say(`${this.names()} The other one cannot show this metric: ${reason}`, true);
      return metric;
    }
    this.say(this.names());
    return differenceOf(metric, rollout, other, this.common);
  }

  /** Tints the second text: the difference where both share tokens, then its own values. */
  tint(paint, underline) {
    const { other } = this;
    if (!other || this.same) return;
    const own = this.base && !reasonAgainst(this.base, other) && !toFetch(this.base, other).length;
    if (!own)
      return this.text.tint({ levels: new Uint8Array(other.n), signs: new Int8Array(other.n) }, false);
    this.text.tint(paint(mirrored(this.base, other, this.shown, this.common), other), underline);
  }

  names() {
    const { shown: rollout, other, common } = this;
    const across = rollout.meta.run_id !== other.meta.run_id;
    const [one, two] = [nameOf(rollout.meta, across), nameOf(other.meta, across)];
    if (this.same) return `${one} minus ${two}: the same ${integer(common)} tokens.`;
    return `Left ${one}, right ${two}: the same first ${integer(common)} tokens (of ${integer(rollout.n)} and ${integer(other.n)}), tinted by left minus right.`;
  }

  say(text, bad = false) {
    this.bar.hidden = false;
    this.told.classList.toggle("bad", bad);
    this.told.textContent = text;
    this.told.title = text;
    this.swap.hidden = !this.other;
  }

  swapped(pos = this.view.pinned) {
    const { id } = this.view.rollout.meta;
    this.view.open(this.other.meta.id, { pos: pos < this.other.n ? pos : -1, other: id });
  }

  /** A click on a shared token pins it; on another one, that rollout's tokens come to the left. */
  picked(index) {
    if (index === null) return;
    if (index < this.common) this.view.pin(index);
    else this.swapped(index);
  }

  follow(from, to) {
    if (this.element.hidden || Math.abs(from.scrollTop - to.scrollTop) < 1) return;
    to.scrollTop = from.scrollTop;
  }

  resized() {
    this.text.most = this.view.text.columns;
    if (!this.element.hidden) this.text.resized();
  }
}

function nameOf(meta, across) {
  const kind = meta.kind === "train" ? "" : `${meta.kind} `;
  const run = across ? `${plain(meta.run_name || meta.run_id, 24)}, ` : "";
  return `${run}${kind}step ${meta.step}${meta.kind === "probe" ? "" : `, sample ${meta.sample}`}`;
}

function equal(one, two) {
  return one.length === two.length && sharedStart(one, two) === one.length;
}

/** How many ids two completions share from their start. */
function sharedStart(one, two) {
  const most = Math.min(one.length, two.length);
  let at = 0;
  while (at < most && one[at] === two[at]) at++;
  return at;
}

/** This rollout's values minus the other's over the shared tokens; past them its own. */
function differenceOf(metric, rollout, other, common) {
  return made(metric, `${metric.key}:minus:${other.meta.id}`, common === rollout.n, () => {
    const values = Float32Array.from(valuesOf(metric, rollout));
    const others = valuesOf(metric, other);
    for (let i = 0; i < common; i++) values[i] -= others[i];
    return values;
  });
}

/** As the left text: left minus right over the shared tokens; past them the right one's own. */
function mirrored(metric, other, shown, common) {
  return made(metric, `${metric.key}:from:${shown.meta.id}`, false, () => {
    const values = Float32Array.from(valuesOf(metric, other));
    const left = valuesOf(metric, shown);
    for (let i = 0; i < common; i++) values[i] = left[i] - values[i];
    return values;
  });
}

function made(metric, key, whole, of) {
  const rest = whole ? "" : "; after the shared tokens the metric itself";
  return {
    ...metric,
    key,
    base: metric,
    of,
    signed: true,
    warm: metric.warm ?? 1,
    label: `Difference, ${metric.label}`,
    means: `${metric.label}, this rollout minus the other; orange: ${(metric.warm ?? 1) > 0 ? "more" : "less"} here${rest}`,
  };
}
