// A few tokens as running text, tinted by reverse KL; one tab stop, arrow keys move, pointing shows.
import { h } from "../../lib/dom.js";
import { fixed, leaning, probability } from "../../lib/format.js";
import { classOf, GAMMA, levelOf } from "../../lib/palette.js";
import { bounded } from "./glyphs.js";

export class TintedTokens {
  /**
   * `looked(index)` is called with the token looked at, −1 for none.
   * @param {string} label @param {(index: number) => unknown} looked
   */
  constructor(label, looked) {
    this.looked = looked;
    this.first = 0;
    this.at = -1;
    /** @type {HTMLElement[]} */
    this.spans = [];
    /** @type {DrawnCell[]} */
    this.cells = [];
    this.element = h("div", {
      class: "tinted mono",
      tabindex: "0",
      role: "group",
      "aria-label": `${label}; arrow keys move from token to token`,
      onkeydown: (/** @type {KeyboardEvent} */ e) => this.key(e),
      onpointerover: (/** @type {PointerEvent} */ e) => this.point(e.target),
      onpointerleave: () => this.point(null),
      onclick: (/** @type {MouseEvent} */ e) => this.look(indexOf(e.target)),
      onblur: () => this.look(-1),
    });
  }

  /**
   * Draws cells from `first` on, by their values in nats on a scale up to `top`.
   * @param {DrawnCell[]} cells @param {ArrayLike<Value> | null | undefined} values @param {number} top
   */
  draw(cells, values, top, first = 0) {
    /** @param {number} i */
    const changed = (i) => this.cells[i]?.raw !== cells[i].raw || this.cells[i]?.kind !== cells[i].kind;
    let same = 0;
    while (same < Math.min(this.cells.length, cells.length) && !changed(same)) same++;
    if (this.first !== first) same = 0;
    for (const span of this.spans.splice(same)) span.remove();
    for (let i = same; i < cells.length; i++) {
      const span = h("span", { class: "tinted-token", "data-kind": cells[i].kind || null, "data-at": i });
      span.textContent = cells[i].lines.join("");
      this.spans.push(span);
      this.element.append(span);
    }
    this.first = first;
    this.cells = cells.slice();
    this.spans.forEach((span, i) => {
      const value = values?.[i];
      const level = typeof value === "number" && i >= first ? levelOf(value, top, GAMMA, false) : 0;
      span.className = [
        "tinted-token",
        i < first ? "before" : "",
        classOf(level, 0),
        i === this.at ? "at" : "",
      ]
        .filter(Boolean)
        .join(" ");
    });
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const to = step ? this.at + step : { Home: 0, End: this.spans.length - 1, Escape: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    this.look(event.key === "Escape" ? -1 : Math.max(0, Math.min(this.spans.length - 1, to)));
  }

  /** @param {number} index */
  look(index) {
    this.spans[this.at]?.classList.remove("at");
    this.at = index;
    this.spans[index]?.classList.add("at");
    this.looked(index);
  }

  /** @param {EventTarget | null} target */
  point(target) {
    const index = target === null ? -1 : indexOf(target);
    this.looked(index < 0 ? this.at : index);
  }
}

/** @param {EventTarget | null} target */
function indexOf(target) {
  const at = target instanceof HTMLElement ? target.dataset.at : undefined;
  return at === undefined ? -1 : Number(at);
}

/**
 * Figures of one token in a sentence; `best` is the teacher's first choice, `author` who wrote it.
 * @param {string} raw
 * @param {{p: Value, q: Value, kl: Value, author?: string, best?: TopChoice | null}} figures
 */
export function sentenceOf(raw, { p, q, kl, best, author = "" }) {
  /** @param {unknown} value */
  const says = (value) => (typeof value === "number" ? probability(Math.exp(value)) : "–");
  const wroteThis =
    { teacher: "; the teacher itself wrote this", student: "; the student wrote this" }[author] ?? "";
  const text = `“${bounded(raw)}”: student ${says(p)}, teacher ${says(q)}, reverse KL ${fixed(kl)} nats.`;
  if (!best) return text;
  if (best.same) return `${text} It is the teacher’s first choice.`;
  return `${text} Teacher ${leaning(best.q)} “${bounded(best.text)}” (${says(best.q)}, student ${says(best.p)})${wroteThis}.`;
}
