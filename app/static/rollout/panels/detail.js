// The panel of one token: its figures, both models' alternatives, and one plain sentence.

import { fill, h } from "../../lib/dom.js";
import { fixed, integer, nats, percent, probability } from "../../lib/format.js";
import { glyphs, word } from "../text/glyphs.js";
import { placesOf } from "../text/metrics.js";
import { alternativesAt, firstChoice, tableOf } from "./alternatives.js";

const MOST_ROWS = 12;
const MOST_QUOTED = 12; // characters of a token in the sentence, which has two lines
const FETCH_AFTER = 60; // ms that the pointer rests on a token

export class Detail {
  /** `view` says by which metric tokens are ranked. */
  constructor(view) {
    this.view = view;
    this.element = h("section", { id: "token-detail", class: "detail", "aria-label": "Token" });
    this.head = h("div", { class: "dt-head" });
    this.say = h("p", { class: "dt-say", "aria-live": "polite" });
    this.figures = h("div", { class: "dt-figures" });
    this.table = h("div", { class: "dt-table" });
    this.turn = 0;
    this.index = null;
  }

  show(rollout) {
    this.rollout = rollout;
    this.nothing();
  }

  nothing() {
    this.index = null;
    this.turn++;
    clearTimeout(this.timer);
    delete this.element.dataset.index;
    fill(
      this.element,
      h(
        "div",
        { class: "face" },
        h("strong", { text: "No token chosen" }),
        h("p", { text: "Point at a token to read it, click to pin it." }),
        h("p", {}, h("kbd", { text: "n" }), " the worst token, ", h("kbd", { text: "?" }), " all keys"),
      ),
    );
  }

  /** Shows token `index` (−1: none); `pinned` says whether it stays when the pointer leaves. */
  token(index, pinned) {
    if (index < 0) return this.nothing();
    if (this.index === index && this.pinned === pinned) return;
    this.index = index;
    this.pinned = pinned;
    const turn = ++this.turn;
    if (!this.head.isConnected) fill(this.element, this.head, this.say, this.figures, this.table);
    this.element.dataset.index = index;
    this.header(index);
    this.numbers(index);
    this.sentence(index, null);
    this.alternatives(index, turn, pinned);
  }

  /** Shows the figures anew: more columns have come, or tokens are ranked by another metric. */
  again() {
    if (this.index === null) return;
    this.header(this.index);
    this.numbers(this.index);
  }

  header(index) {
    const cell = this.rollout.cells[index];
    const id = this.rollout.columns.completion_ids[index];
    const places = placesOf(this.view.metric, this.rollout);
    const parts = cell.number
      ? h("span", {
          class: "muted",
          text: `part ${cell.number} of “${glyphs(cell.whole)}”, bytes ${cell.bytes}`,
        })
      : null;
    fill(
      this.head,
      h("div", {
        class: "dt-token mono",
        "data-kind": cell.kind,
        text: cell.number ? glyphs(cell.whole) : cell.lines.join(""),
      }),
      h(
        "div",
        { class: "dt-place muted" },
        `position ${integer(index)} · id ${id} · ${ordinal(places[index])} of ${integer(places.length)}`,
        cell.kind === "special" ? " · special" : "",
        parts && [" · ", parts],
      ),
      h("span", { class: "dt-pin", text: this.pinned ? "pinned" : "" }),
    );
  }

  numbers(index) {
    const c = this.rollout.columns;
    const at = (name) => c[name]?.[index];
    const [p, q] = [at("student_logprobs"), at("teacher_logprobs")];
    const pairs = [
      [
        "probability",
        p === undefined ? p : probability(Math.exp(p)),
        q === undefined ? q : probability(Math.exp(q)),
        "",
      ],
      ["log-probability", fixedOr(p), fixedOr(q), "nats"],
      ["entropy", natsOr(at("student_entropy")), natsOr(at("teacher_entropy")), "nats"],
    ].filter(([, left, right]) => left !== undefined || right !== undefined);
    const single = [
      ["reverse KL", natsOr(at("reverse_kl")), "nats", "exact, over the whole vocabulary"],
      ["log-ratio", p === undefined || q === undefined ? undefined : fixed(p - q), "nats", "student − coach"],
      [
        "coach’s rank",
        at("teacher_rank") === undefined ? undefined : integer(at("teacher_rank")),
        "",
        "0 is its first choice",
      ],
      ["advantage", fixedOr(at("advantages")), "", "as trained"],
      [
        "weight",
        at("mask") === undefined || at("mask") === 1 ? undefined : fixed(at("mask"), 2),
        "",
        "in the loss; 0: masked out",
      ],
    ].filter(([, value]) => value !== undefined);
    const cell = (text, more) => h("td", { class: "num r", ...more }, text ?? "–");
    const unitCell = (unit) => h("td", { class: "unit", text: unit });
    fill(
      this.figures,
      h(
        "table",
        { class: "dt-pairs" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("td", {}),
            h("th", { class: "r", scope: "col", text: "student" }),
            h("th", { class: "r", scope: "col", text: "coach" }),
            h("td", {}),
          ),
        ),
        h(
          "tbody",
          {},
          pairs.map(([name, left, right, unit]) =>
            h("tr", {}, h("th", { scope: "row", text: name }), cell(left), cell(right), unitCell(unit)),
          ),
        ),
        h(
          "tbody",
          {},
          single.map(([name, value, unit, means]) =>
            h(
              "tr",
              { title: means },
              h("th", { scope: "row", text: name }),
              cell(value, { colspan: "2" }),
              unitCell(unit),
            ),
          ),
        ),
      ),
    );
  }

  alternatives(index, turn, pinned) {
    clearTimeout(this.timer);
    const { top_k: k, absent } = this.rollout.meta;
    if (!k) {
      fill(
        this.table,
        h("div", { class: "face small" }, absent?.teacher_topk ?? "No alternatives are stored."),
      );
      return;
    }
    const load = async () => {
      try {
        const found = await alternativesAt(this.rollout, index);
        if (turn === this.turn) this.drawTable(index, found);
      } catch (error) {
        if (turn === this.turn) fill(this.table, h("div", { class: "face small bad", text: error.message }));
      }
    };
    this.timer = setTimeout(load, pinned ? 0 : FETCH_AFTER);
  }

  drawTable(index, found) {
    if (!found) {
      fill(this.table, h("div", { class: "face small" }, "No alternatives are stored for this token."));
      return;
    }
    const c = this.rollout.columns;
    const kl = c.reverse_kl ? c.reverse_kl[index] : 0;
    const { list, rest } = tableOf(found, c.completion_ids[index], kl);
    const rows = list.slice(0, MOST_ROWS).map((row) => this.row(row));
    if (list.length > MOST_ROWS)
      rows.push(h("div", { class: "alt-more muted" }, `${list.length - MOST_ROWS} more, not drawn`));
    fill(
      this.table,
      h(
        "div",
        { class: "alt-row alt-head" },
        h("span", { class: "r", text: "student" }),
        h("span", { text: "token" }),
        h("span", { text: "coach" }),
        h("span", { class: "r", text: "of KL" }),
      ),
      rows,
      h(
        "div",
        { class: "alt-row alt-rest" },
        bar("s", rest.p),
        h("span", { class: "alt-token", text: "not listed" }),
        bar("t", rest.q),
        h("span", { class: "r num", text: share(rest.share) }),
      ),
    );
    this.sentence(index, found);
  }

  row(row) {
    const token = h("span", {
      class: "alt-token mono",
      text: glyphs(row.text === " " ? "·" : row.text) || "∅",
      title: `id ${row.id}`,
    });
    return h(
      "div",
      { class: row.sampled ? "alt-row sampled" : "alt-row" },
      bar("s", row.p),
      token,
      bar("t", row.q),
      h("span", { class: "r num", text: row.share === null ? "–" : share(row.share) }),
    );
  }

  sentence(index, found) {
    const c = this.rollout.columns;
    const [p, q] = [c.student_logprobs?.[index], c.teacher_logprobs?.[index]];
    const wrote = quote(this.rollout.cells[index].raw);
    const says = (value) => (value === undefined || Number.isNaN(value) ? "–" : probability(Math.exp(value)));
    const best = found && firstChoice(found);
    let text = `The student wrote ${wrote} (${says(p)}, coach ${says(q)}).`;
    if (best && best.id === c.completion_ids[index]) {
      text = `Coach agrees: ${wrote} is its first choice (${says(q)}, student ${says(p)}).`;
    } else if (best) {
      text = `Coach wanted ${quote(best.text)} (${says(best.teacher_logprob)}); the student wrote ${wrote} (${says(p)}, coach ${says(q)}).`;
    }
    if (this.say.textContent !== text) this.say.textContent = this.say.title = text;
  }
}

function fixedOr(value) {
  return value === undefined || Number.isNaN(value) ? undefined : fixed(value);
}

function natsOr(value) {
  return value === undefined || Number.isNaN(value) ? undefined : nats(value);
}

/** A share of the KL, and no false 0. */
function share(value) {
  return value > 0 && value < 0.005 ? "<1%" : percent(value);
}

function ordinal(place) {
  return place === 1 ? "worst" : `${integer(place)}. worst`;
}

function quote(text) {
  const shown = [...word(text)];
  const cut = shown.length > MOST_QUOTED ? `${shown.slice(0, MOST_QUOTED).join("")}…` : shown.join("");
  return `“${cut}”`;
}

function bar(side, value) {
  const known = typeof value === "number" && !Number.isNaN(value);
  return h(
    "span",
    { class: `alt-bar ${side}` },
    h("span", {
      class: "alt-fill",
      style: { width: `${known ? Math.max(value > 0 ? 1 : 0, value * 100) : 0}%` },
    }),
    h("span", { class: "num", text: known ? probability(value) : "–" }),
  );
}
