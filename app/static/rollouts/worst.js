// The tokens of a run on which teacher and student differ most, each with the text around it.
import { get, page } from "../lib/api.js";
import { button, fill, h, link } from "../lib/dom.js";
import { fixed, integer, probability } from "../lib/format.js";
import { empty, failed, loading } from "../lib/panel_states.js";
import { bounded, glyphs } from "../rollout/text/glyphs.js";
import { grouped, kindsOf } from "./groups.js";

const STEP = 25;
const ABOUT_ROLLOUTS = ["step", "min_step", "max_step", "kind", "finish_reason", "correct", "teacher"];
/** A filter's name in the page's address → its name in the request. */
export const TOKEN_FILTERS = {
  class: "class",
  token_text: "text",
  token_id: "token_id",
  min_position: "min_position",
  max_position: "max_position",
  min_entropy: "min_entropy",
  max_entropy: "max_entropy",
  min_heat: "min_heat",
  max_heat: "max_heat",
  min_advantage: "min_advantage",
  max_advantage: "max_advantage",
};

/**
 * Where the tokens that a filter (by its names in the address) finds are listed.
 * @param {string} run @param {Query} filter
 */
export function tokensPage(run, filter) {
  return page("rollouts", { run, view: "worst", ...filter });
}

/** A filter by its names in the address as the request for the tokens has it. @param {Query} filter */
export function asRequest(filter) {
  /** @type {Query} */
  const request = {};
  for (const name of ABOUT_ROLLOUTS) request[name] = filter[name];
  for (const [name, field] of Object.entries(TOKEN_FILTERS)) request[field] = filter[name];
  return request;
}

export class WorstTokens {
  /** @type {Query} */
  filter;
  /** @type {number} */
  offset;
  /** @type {number} */
  total;
  /** @type {object} */
  latest;
  /** @type {string} */
  print;

  /**
   * With `turn(offset)` the list has pages, and `turn` is called when one is turned.
   * @param {string} run @param {WorstOptions} [worstOptions]
   */
  constructor(run, { filters = null, turn = null, clear = null } = {}) {
    this.run = run;
    this.turn = turn;
    this.clear = clear;
    this.limit = STEP;
    this.list = h("div", { class: "worst-list" });
    this.count = h("span", { class: "muted num" });
    this.unit = h("span", { class: "muted", text: "exact reverse KL, nats" });
    this.source = h("p", { class: "worst-source caption", hidden: true });
    this.element = h(
      "section",
      { class: "panel worst", "aria-label": "Worst tokens" },
      h(
        "header",
        {},
        h("h2", { text: "Worst tokens" }),
        this.unit,
        h("span", { class: "spacer" }),
        this.count,
      ),
      filters,
      this.source,
      this.list,
    );
    loading(this.list, "the worst tokens");
  }

  /** `filter` by its names in the address. */
  async refresh(filter = {}, offset = 0) {
    this.filter = filter;
    this.offset = offset;
    const turn = {};
    this.latest = turn;
    /** @type {HotTokens} */
    let answer;
    try {
      answer = await get(`runs/${this.run}/hot-tokens`, {
        ...asRequest(filter),
        limit: this.limit,
        offset: offset || null,
      });
    } catch (error) {
      if (turn !== this.latest) return;
      this.print = "";
      failed(this.list, error, () => this.refresh(filter, offset));
      return;
    }
    if (turn !== this.latest) return;
    const print = JSON.stringify([answer, offset]);
    if (print === this.print) return;
    this.print = print;
    this.draw(answer);
  }

  /** @param {HotTokens} answer */
  draw(answer) {
    const { items, total } = answer;
    this.total = total;
    this.describe(answer);
    if (!items.length) return this.none(total);
    const top = Math.max(...items.map((i) => i.heat));
    fill(
      this.list,
      head(),
      grouped(items, sameToken).map((group) => tokenRow(group[0], top, group)),
      this.turn ? this.pager(items.length) : this.more(items.length),
    );
    this.list.scrollTop = 0;
  }

  /** @param {number} total */
  none(total) {
    const filtered = this.turn && Object.values(this.filter).some((v) => v);
    if (total)
      empty(
        this.list,
        "This page is past the end of the list",
        `The list has ${integer(total)} tokens.`,
        button("Back to the start", () => this.turn?.(0)),
      );
    else if (filtered)
      empty(
        this.list,
        "No tokens match",
        "No token of this run matches these filters.",
        this.clear && button("Clear filters", this.clear),
      );
    else empty(this.list, "No tokens yet", "They appear when the first step with stored rollouts finishes.");
  }

  /** @param {HotTokens} hotTokens */
  describe({ items, total, source, kept, read, rollouts, stored, capped, cap, damaged }) {
    const first = this.offset;
    const shown = this.turn
      ? `${integer(first + 1)}–${integer(first + items.length)}`
      : integer(items.length);
    this.count.textContent = items.length ? `${shown} of ${integer(total)}` : "";
    this.count.dataset.total = String(total);
    const exact = items.every((i) => i.reverse_kl !== null);
    this.unit.textContent = exact
      ? "exact reverse KL, nats"
      : "|log-ratio| where no reverse KL is stored, nats";
    const words =
      source === "index"
        ? [`The ${kept ?? "few"} worst tokens of each rollout; filtering by token searches all tokens.`]
        : [
            `From all ${integer(read)} tokens of ${integer(rollouts)} rollouts.`,
            capped &&
              `An even sample of ${integer(stored)} tokens: at most ${integer(cap)} are read. Choose fewer steps to read all of them.`,
            damaged && `${integer(damaged)} damaged ${damaged === 1 ? "record is" : "records are"} skipped.`,
          ];
    this.source.textContent = words.filter(Boolean).join(" ");
    this.source.hidden = !this.turn;
  }

  /** @param {number} shown */
  more(shown) {
    const all = link("All tokens, with filters", tokensPage(this.run, this.filter), {
      class: "btn small quiet",
    });
    const more =
      this.total > shown &&
      button(
        "Show more",
        () => {
          this.limit += STEP;
          this.refresh(this.filter);
        },
        { class: "btn small quiet" },
      );
    return h("div", { class: "pager" }, more, all);
  }

  /** @param {number} shown */
  pager(shown) {
    const { offset } = this;
    /** @param {number} to */
    const go = (to) => this.turn?.(Math.max(0, to));
    return h(
      "div",
      { class: "pager" },
      h(
        "span",
        { class: "muted" },
        h("kbd", { text: "n" }),
        " ",
        h("kbd", { text: "p" }),
        " next, previous; Enter opens",
      ),
      h("span", { class: "spacer" }),
      button("Previous", () => go(offset - STEP), { class: "btn small", disabled: offset === 0 }),
      button("Next", () => go(offset + STEP), { class: "btn small", disabled: offset + shown >= this.total }),
    );
  }

  rows() {
    return [...this.list.querySelectorAll(/** @type {"a"} */ (".worst-row"))];
  }

  /** Moves the focus to the next or the previous token, over the ends of a page. @param {number} by */
  async step(by) {
    const rows = this.rows();
    const at = rows.indexOf(/** @type {HTMLAnchorElement} */ (document.activeElement));
    const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : at + by;
    if (rows[next]) return rows[next].focus();
    const offset = this.offset + by * STEP;
    if (!this.turn || !rows.length || offset < 0 || offset >= this.total) return;
    await this.turn(offset);
    const fresh = this.rows();
    fresh[by > 0 ? 0 : fresh.length - 1]?.focus();
  }
}

/** Alike for one token in one context at one step. @param {HotToken} item */
function sameToken({ step, position, group, token_id, before, text, after }) {
  return JSON.stringify([step, position, group, token_id, before, text, after]);
}

/** `same`: the equal ones, which one row stands for. @param {HotToken} item @param {number} top @param {HotToken[]} [same] */
export function tokenRow(item, top, same = [item]) {
  const value = item.heat;
  return h(
    "a",
    {
      class: "worst-row",
      href: page("rollout", { id: item.rollout_id, pos: item.position }),
      title: `step ${item.step}, position ${item.position}${same.length > 1 ? `: ${kindsOf(same)}` : ""}`,
      "data-token": item.token_id,
    },
    h(
      "span",
      { class: "worst-value num" },
      h("span", { class: "worst-bar", style: { width: `${(value / (top || 1)) * 100}%` } }),
      h("span", { text: `${same.length > 1 ? `×${same.length} ` : ""}${fixed(value, 2)}` }),
    ),
    h(
      "span",
      { class: "worst-text mono" },
      h("span", { class: "worst-before" }, h("bdi", { text: glyphs(item.before ?? "") })),
      h("mark", { text: bounded(item.text ?? "") }),
      h("span", { class: "worst-after" }, h("bdi", { text: glyphs(item.after ?? "") })),
    ),
    chance(item.student_logprob, "p(student) of the token"),
    chance(item.teacher_logprob, "p(teacher) of the token"),
    h(
      "span",
      { class: "worst-preferred" },
      item.wanted && [
        h("span", { class: "muted worst-narrow", text: "teacher " }),
        h("span", { class: "mono", text: bounded(item.wanted) }),
      ],
    ),
    chance(item.wanted_logprob, "p(teacher) of its top choice"),
    h("span", { class: "muted num r", text: `step ${item.step}` }),
  );
}

/** Shown where the list is wide enough. @param {Value} logprob @param {string} title */
function chance(logprob, title) {
  return h("span", {
    class: "num r worst-wide",
    title,
    text: probability(logprob === null || logprob === undefined ? null : Math.exp(logprob)),
  });
}

function head() {
  const names = [
    ["KL", "r"],
    ["Token in context", ""],
    ["p(student)", "r"],
    ["p(teacher)", "r"],
    ["Teacher top-1", ""],
    ["p(top-1)", "r"],
    ["Step", "r"],
  ];
  return h(
    "div",
    { class: "worst-head muted worst-wide", "aria-hidden": "true" },
    names.map(([text, kind]) => h("span", { class: kind, text })),
  );
}
