// A grid of tinted cells with one tab stop: arrow keys move, Enter or a click leads to the tokens.
import { h } from "../lib/dom.js";
import { classOf, GAMMA, LEVELS, levelOf } from "../lib/palette.js";
import { isDark, onTheme, recall } from "../lib/theme.js";
import { usePalette } from "../lib/tints.js";

/** @type {Record<string, Spot>} */
const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
/** @type {boolean | undefined} */
let shownDark;

/** The palette's tints, made anew when the theme has changed. */
function tints() {
  if (shownDark === isDark()) return;
  if (shownDark === undefined) onTheme(tints);
  shownDark = isDark();
  usePalette(recall("palette", "oranges"));
}

export class CellGrid {
  /** @type {HTMLElement | null} */
  current;
  /** @type {[number, number, number, number] | null} */
  region;
  /** @type {Spot | null} */
  anchor;

  /**
   * `cells[row][column]`: {value, label, href?} or null; `rows` and `columns` are the labels of
   * their ends, "" for none. With `brush(row0, column0, row1, column1)` a region can be chosen, by
   * dragging or with Shift and the arrow keys; without it a cell is a link. `log`: tinted by log(1 + value).
   * `down` and `across` name the axes.
   * @param {GridOptions} gridOptions
   */
  constructor({ label, rows, columns, cells, top, down, across, brush = null, log = false }) {
    tints();
    this.cells = cells;
    this.brush = brush;
    /** @param {number} value */
    this.level = (value) => (log ? levelOf(value, top, 1, true) : levelOf(value, top, GAMMA));
    this.buttons = cells.map((line, r) => line.map((cell, c) => this.cell(cell, r, c)));
    const lines = this.buttons.map((line, r) => [
      h("span", { class: "cg-row", "aria-hidden": "true" }, h("span", { text: rows[r] })),
      line,
    ]);
    const foot = columns.map((text) =>
      h("span", { class: "cg-column", "aria-hidden": "true" }, h("span", { text })),
    );
    this.element = h(
      "div",
      {
        class: "cell-grid",
        role: "group",
        "aria-label": label,
        style: { "--columns": columns.length, "--rows": rows.length },
      },
      h("span", { class: "cg-down", "aria-hidden": "true", text: down }),
      lines,
      h("span", { class: "cg-corner" }),
      foot,
      h("span", { class: "cg-across", "aria-hidden": "true", text: across }),
    );
    this.listen();
    this.focusable(this.first());
  }

  /** @param {GridCell | null} cell @param {number} r @param {number} c */
  cell(cell, r, c) {
    const spot = { "data-r": r, "data-c": c };
    if (!cell) return h("span", { class: "cg-cell none", ...spot });
    const props = {
      class: `cg-cell ${classOf(this.level(cell.value), 0)}`,
      title: cell.label,
      "aria-label": cell.label,
      tabindex: "-1",
      ...spot,
    };
    return this.brush ? h("div", { role: "button", ...props }) : h("a", { href: cell.href, ...props });
  }

  listen() {
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener(
      "focusin",
      (event) => spotOf(event.target) && this.focusable(/** @type {HTMLElement} */ (event.target)),
    );
    if (!this.brush) return;
    /** @type {Spot | null} */
    let from = null;
    this.element.addEventListener("pointerdown", (event) => {
      from = spotOf(event.target);
      if (!from) return;
      this.mark(from, from);
      addEventListener(
        "pointerup",
        () => {
          from = null;
          this.choose();
        },
        { once: true },
      );
    });
    this.element.addEventListener("pointerover", (event) => {
      const to = from && event.buttons && spotOf(event.target);
      if (from && to) this.mark(from, to);
    });
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const at = spotOf(event.target);
    if (!at) return;
    if ((event.key === "Enter" || event.key === " ") && this.brush) {
      event.preventDefault();
      if (!this.region) this.mark(at, at);
      this.choose();
      return;
    }
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    const next = this.next(at, move);
    if (!next) return;
    const to = spotOf(next);
    if (this.brush && event.shiftKey && to) this.mark(this.anchor ?? at, to);
    else this.unmark();
    next.focus();
  }

  /** The nearest cell with tokens that way. @param {Spot} spot @param {Spot} move */
  next([r, c], [down, right]) {
    for (let i = r + down, j = c + right; this.buttons[i]?.[j]; i += down, j += right) {
      if (this.cells[i][j]) return this.buttons[i][j];
    }
    return null;
  }

  first() {
    return this.buttons.flat().find((b) => b.hasAttribute("tabindex")) ?? null;
  }

  /** @param {HTMLElement | null} button */
  focusable(button) {
    this.current?.setAttribute("tabindex", "-1");
    button?.setAttribute("tabindex", "0");
    this.current = button;
  }

  /** @param {Spot} from @param {Spot} to */
  mark(from, to) {
    this.anchor = from;
    const [r0, r1] = [from[0], to[0]].sort((a, b) => a - b);
    const [c0, c1] = [from[1], to[1]].sort((a, b) => a - b);
    this.region = [r0, c0, r1, c1];
    for (const [r, line] of this.buttons.entries()) {
      for (const [c, button] of line.entries())
        button.classList.toggle("chosen", r >= r0 && r <= r1 && c >= c0 && c <= c1);
    }
  }

  unmark() {
    this.anchor = this.region = null;
    for (const button of this.element.querySelectorAll(".chosen")) button.classList.remove("chosen");
  }

  choose() {
    if (this.region) this.brush?.(...this.region);
  }
}

/** @param {EventTarget | null} element @returns {Spot | null} */
function spotOf(element) {
  if (!(element instanceof HTMLElement) || !element.dataset.r) return null;
  return [Number(element.dataset.r), Number(element.dataset.c)];
}

/** A strip of the tints from none to the most. @param {string} most */
export function scaleStrip(most) {
  const steps = Array.from({ length: 9 }, (_, i) =>
    h("span", { class: classOf(Math.round((i / 8) * LEVELS), 0) }),
  );
  return h(
    "span",
    { class: "scale-strip" },
    "0",
    h("span", { class: "scale-steps", "aria-hidden": "true" }, steps),
    most,
  );
}
