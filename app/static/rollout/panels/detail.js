// The panel of one token: its figures, both models' alternatives, and one plain sentence.
import { fill, h } from "../../lib/dom.js";
import { integer, leaning, ordinal, percent, probability } from "../../lib/format.js";
import { MarkNote } from "../marks/note.js";
import { sameRollout, shownToken } from "../state.js";
import { bounded, glyphs } from "../text/glyphs.js";
import { ranksOf } from "../text/metrics.js";
import { alternativesAt, firstChoice, isNumber, tableOf, writtenAt } from "./alternatives.js";
import { drawFigures } from "./figures.js";

const MAX_ROWS = 12;
const MAX_QUOTED = 12; // characters of a token in the sentence, which has two lines
const FETCH_AFTER = 60; // ms that the pointer rests on a token

/** @implements {Panel} */
export class Detail {
  /** @param {import("../marks/store.js").MarkStore} marks */
  constructor(marks) {
    /** @type {(keyof ViewState)[]} */
    this.follows = ["rollout", "pinned", "pointed", "metric", "marks"];
    this.note = new MarkNote(marks);
    this.element = h("section", { id: "token-detail", class: "detail", "aria-label": "Token" });
    this.head = h("div", { class: "dt-head" });
    this.say = h("p", { class: "dt-say", "aria-live": "polite" });
    this.figures = h("div", { class: "dt-figures" });
    this.table = h("div", { class: "dt-table" });
    this.turn = 0;
    this.timer = 0;
    /** @type {{rollout: Rollout, metric: Metric, index: number, pinned: boolean} | null} */
    this.shown = null;
    this.nothing();
  }

  /** @param {RolloutView} snapshot */
  update(snapshot) {
    const { rollout, metric, pinned } = snapshot;
    const index = shownToken(snapshot);
    const before = this.shown;
    const shown = { rollout, metric, index, pinned: index === pinned };
    this.shown = shown;
    this.note.show(rollout.meta.id, index < 0 ? null : index, shown.pinned);
    if (index < 0) this.nothing();
    else if (!before || !isSame(before, shown)) this.draw(shown);
    else if (before.rollout !== rollout || before.metric !== metric) this.drawFigures(shown);
  }

  nothing() {
    this.turn++;
    clearTimeout(this.timer);
    delete this.element.dataset.index;
    fill(
      this.element,
      h(
        "div",
        { class: "face" },
        h("strong", { text: "No token selected" }),
        h("p", { text: "Point at a token to read it, click to pin it." }),
        h("p", {}, h("kbd", { text: "n" }), " worst token, ", h("kbd", { text: "?" }), " all shortcuts"),
      ),
      this.note.element,
    );
  }

  /** @param {ShownToken} shown */
  draw(shown) {
    if (!this.head.isConnected)
      fill(this.element, this.head, this.say, this.note.element, this.figures, this.table);
    this.element.dataset.index = String(shown.index);
    this.drawFigures(shown);
    this.sentence(shown, null);
    this.loadAlternatives(shown);
  }

  /**
   * The figures and the rank: again where more columns have come, or another metric ranks the tokens.
   * @param {ShownToken} shown
   */
  drawFigures(shown) {
    this.header(shown);
    drawFigures(this.figures, shown.rollout.columns, shown.index);
  }

  /** @param {ShownToken} shownToken */
  header({ rollout, metric, index, pinned }) {
    const cell = rollout.cells[index];
    const ranks = ranksOf(metric, rollout);
    const part = cell.number
      ? `part ${cell.number} of “${glyphs(cell.whole ?? "")}”, bytes ${cell.bytes}`
      : "";
    fill(
      this.head,
      h("div", {
        class: "dt-token mono",
        "data-kind": cell.kind,
        text: cell.number ? glyphs(cell.whole ?? "") : headOf(cell),
      }),
      h(
        "div",
        { class: "dt-position muted" },
        `position ${integer(index)} · id ${rollout.columns.completion_ids[index]} · ${rankText(ranks[index], ranks.length)}`,
        cell.kind === "special" ? " · special" : "",
        readAs(rollout, index),
        part && [" · ", h("span", { class: "muted", text: part })],
      ),
      h("span", { class: "dt-pin", text: pinned ? "pinned" : "" }),
    );
  }

  /** @param {ShownToken} shown */
  loadAlternatives(shown) {
    clearTimeout(this.timer);
    const turn = ++this.turn;
    const { rollout, index, pinned } = shown;
    const { top_k: k, absent } = rollout.meta;
    if (!k) return this.face(absent?.teacher_topk ?? "No alternatives are stored.");
    const load = async () => {
      try {
        const alternatives = await alternativesAt(rollout, index);
        if (turn === this.turn) this.drawAlternatives(shown, alternatives);
      } catch (error) {
        if (turn === this.turn) this.face(error.message, "face small bad");
      }
    };
    this.timer = setTimeout(load, pinned ? 0 : FETCH_AFTER);
  }

  /** @param {string} text @param {string} [kind] */
  face(text, kind = "face small") {
    fill(this.table, h("div", { class: kind, text }));
  }

  /** @param {ShownToken} shown @param {Alternatives} alternatives */
  drawAlternatives(shown, alternatives) {
    if (!alternatives) return this.face("No alternatives are stored for this token.");
    const { rollout, index } = shown;
    const c = rollout.columns;
    const { list, rest } = tableOf(alternatives, writtenAt(rollout, index), c.reverse_kl?.[index] ?? 0);
    const rows = list.filter((row, k) => k < MAX_ROWS || row.sampled);
    const more = list.length - rows.length;
    const rank = c.teacher_rank?.[index];
    fill(
      this.table,
      h(
        "div",
        { class: "alt-row alt-head" },
        h("span", { class: "r", text: "student" }),
        h("span", { text: "token" }),
        h("span", { text: "teacher" }),
        h("span", { class: "r", text: "of KL", title: "share of this token’s reverse KL" }),
      ),
      rows.map((row) => [alternativeRow(row), row.outside && outsideNote(rank)]),
      more > 0 && h("div", { class: "alt-more muted", text: `${more} more` }),
      h(
        "div",
        { class: "alt-row alt-rest" },
        bar("s", rest.p),
        h("span", { class: "alt-token", text: "not listed" }),
        bar("t", rest.q),
        h("span", { class: "r num", text: shareText(rest.share) }),
      ),
    );
    this.sentence(shown, alternatives);
  }

  /** @param {ShownToken} shownToken @param {Alternatives | null} alternatives */
  sentence({ rollout, index }, alternatives) {
    const text = sentenceOf(rollout, index, alternatives && firstChoice(alternatives));
    if (this.say.textContent !== text) this.say.textContent = this.say.title = text;
  }
}

/** @param {ShownToken} one @param {ShownToken} other */
function isSame(one, other) {
  return one.index === other.index && one.pinned === other.pinned && sameRollout(one.rollout, other.rollout);
}

/**
 * One token in a sentence; `best` is the teacher's first choice, null while it is not known.
 * @param {Rollout} rollout @param {number} index @param {Alternative | null} best
 */
function sentenceOf({ cells, columns }, index, best) {
  const [p, q] = [columns.student_logprobs?.[index], columns.teacher_logprobs?.[index]];
  const { raw } = cells[index];
  const written = quote(raw);
  /** @param {unknown} logprob */
  const says = (logprob) => (isNumber(logprob) ? probability(Math.exp(logprob)) : "–");
  if (!best) return `The student wrote ${written} (${says(p)}, teacher ${says(q)}).`;
  if (best.id === columns.completion_ids[index])
    return `Teacher agrees: ${written} is its first choice (${says(q)}, student ${says(p)}).`;
  const preferred = `Teacher ${leaning(best.teacher_logprob)} ${quote(best.text)} (${says(best.teacher_logprob)})`;
  return `${preferred}; the student wrote ${written} (${says(p)}, teacher ${says(q)}).`;
}

/**
 * That the teacher read another end at the last token, where it did.
 * @param {Rollout} rollout @param {number} index
 */
function readAs({ meta, n }, index) {
  const replaced = meta.teacher_end && meta.finish_reason === "stop" && meta.author !== "teacher";
  return replaced && index === n - 1 ? ` · shown to the teacher as ${meta.teacher_end}` : "";
}

/** @param {AlternativeRow} row */
function alternativeRow(row) {
  return h(
    "div",
    { class: row.sampled ? "alt-row sampled" : "alt-row" },
    bar("s", row.p),
    h("span", {
      class: "alt-token mono",
      text: bounded(row.text),
      title: `id ${row.id}`,
    }),
    bar("t", row.q),
    h("span", { class: "r num", text: row.share === null ? "–" : shareText(row.share) }),
  );
}

/** Under the written token where neither model's top-k lists it. @param {number | undefined} rank of the teacher, from 0 */
function outsideNote(rank) {
  const rankText = rank === undefined ? "" : `; the teacher’s ${ordinal(rank + 1)}`;
  return h("div", { class: "alt-outside muted", text: `written, outside the stored top-k${rankText}` });
}

/** The token's drawn lines, its outer blanks as dots. @param {DrawnCell} cell */
function headOf({ kind, lines, raw }) {
  return kind === "part" ? lines.join("") : bounded(raw);
}

/** A share of the KL, and no false 0. @param {Value} value */
function shareText(value) {
  return value && value > 0 && value < 0.005 ? "<1%" : percent(value);
}

/** @param {number} rank @param {number} count */
function rankText(rank, count) {
  return `${rank === 1 ? "" : `${ordinal(rank)} `}worst of ${integer(count)}`;
}

/** @param {string} text */
function quote(text) {
  const characters = [...bounded(text)];
  return characters.length > MAX_QUOTED
    ? `“${characters.slice(0, MAX_QUOTED).join("")}…”`
    : `“${characters.join("")}”`;
}

/** `side`: "s" for the student, "t" for the teacher. @param {"s" | "t"} side @param {Value} value */
function bar(side, value) {
  const width = isNumber(value) ? Math.max(value > 0 ? 1 : 0, value * 100) : 0;
  return h(
    "span",
    { class: `alt-bar ${side}` },
    h("span", {
      class: "alt-fill",
      style: { width: `${width}%` },
    }),
    h("span", { class: "num", text: isNumber(value) ? probability(value) : "–" }),
  );
}
