// The rollout as running text: lines of fixed height, of which only those in view are drawn.
import { h, onFrame } from "../../lib/dom.js";
import { classOf } from "../../lib/palette.js";
import { oncePerObject } from "../state.js";
import { layOut, tokenAcross } from "./layout.js";
import { METRICS } from "./metrics.js";
import { THINKING, turnsOf } from "./turns.js";

export const LINE = 24; // px, as .tv-line in tokens.css
const OVERSCAN = 8;
const MAX_COLUMNS = 110;
const GUTTER = 7; // character cells of the position at the start of a line
const ACTIVE = "token-active";
const OPTION = h("span", { role: "option", "aria-selected": "false" });
/** @typedef {Pick<Rollout, "n" | "cells" | "promptCells" | "columns">} ShownText */
/** @type {ShownText} */
const NOTHING = { n: 0, cells: [], promptCells: [], columns: /** @type {Columns} */ ({}) };
/** @type {Tints} Until the first ones are there, nothing is drawn. */
const BARE = { levels: new Uint8Array(0), signs: new Int8Array(0), values: [], top: 1, metric: METRICS[0] };
const EMPTY = layOut([], [], 1, new Uint8Array(0));
const turnsFor = oncePerObject((/** @type {DrawnCell[]} */ cells, /** @type {DrawnCell[]} */ promptCells) =>
  turnsOf(promptCells, cells),
);

export class TokenText {
  /**
   * `on`: {hover(index | null), pick(index | null), view(first, last line)}; `label` tells it from
   * another text on the page.
   * @param {TextActions} on @param {string} [label]
   */
  constructor(on, label = "Completion, token by token") {
    this.on = on;
    /** @type {ShownText} */
    this.rollout = NOTHING;
    this.layout = EMPTY;
    this.turns = turnsOf([], []);
    this.prompt = 0; // tokens of the prompt
    this.columns = 0;
    /** @type {Tints} */
    this.tints = BARE;
    this.underline = false;
    this.drawn = new Map(); // line number → element
    this.selected = -1;
    this.divergence = -1; // the first token that another completion does not have
    this.hits = new Set(); // tokens in a match of the search
    this.hit = -1; // the first token of the match that is shown
    this.noted = new Set(); // tokens that somebody has marked
    this.maxColumns = MAX_COLUMNS;
    this.sizer = h("div", { class: "tv-sizer" });
    this.element = h(
      "div",
      {
        class: "tv-scroll",
        tabindex: "0",
        role: "listbox",
        "aria-label": label,
        "aria-describedby": "tv-help",
      },
      this.sizer,
    );
    this.refresh = onFrame(() => this.draw());
    this.element.addEventListener("scroll", this.refresh, { passive: true });
    this.element.addEventListener("pointerover", (e) => on.hover(indexAt(e)));
    this.element.addEventListener("pointerleave", () => on.hover(null));
    this.element.addEventListener("click", (e) => on.pick(indexAt(e)));
  }

  /** How many character cells a line holds, at most `maxColumns`. */
  measure() {
    const probe = h("span", { class: "tv-probe" }, "0".repeat(100));
    this.sizer.append(probe);
    const cell = probe.getBoundingClientRect().width / 100 || 8;
    probe.remove();
    const room = Math.floor((this.element.clientWidth - 24) / cell) - GUTTER;
    return Math.max(24, Math.min(this.maxColumns, room));
  }

  /** Lays a rollout out anew; it is drawn with its tints. @param {ShownText} rollout */
  show(rollout) {
    this.rollout = rollout;
    this.element.setAttribute("role", "listbox");
    this.prompt = rollout.promptCells.length;
    this.columns = this.measure();
    this.turns = turnsFor(rollout.cells, rollout.promptCells);
    this.layout = layOut(rollout.promptCells, rollout.cells, this.columns, this.turns.breaks);
    this.sizer.style.height = `${this.layout.lines * LINE + 16}px`;
    this.element.setAttribute("data-lines", String(this.layout.lines));
  }

  /**
   * Takes another rollout of the very same tokens: layout and scroll position stay.
   * @param {ShownText} rollout
   */
  swap(rollout) {
    this.rollout = rollout;
  }

  /** Forgets what is drawn, so that another rollout or a notice can take its place. */
  clear() {
    this.sizer.replaceChildren();
    this.drawn.clear();
    this.layout = EMPTY;
    this.tints = BARE;
    this.selected = -1;
    this.divergence = -1;
    this.hits = new Set();
  }

  /** Shows an element in place of a text. @param {HTMLElement} element */
  notice(element) {
    this.clear();
    this.rollout = NOTHING;
    this.sizer.style.height = "";
    this.sizer.append(element);
    this.element.setAttribute("role", "region");
  }

  /** Lays out again where the width has changed. */
  resized() {
    if (this.rollout !== NOTHING && this.measure() !== this.columns) this.again(this.rollout);
  }

  /** Lays the rollout out again, with the tints that it has. @param {ShownText} rollout */
  again(rollout) {
    this.show(rollout);
    this.repaint();
    if (this.selected >= 0) this.reveal(this.selected);
  }

  /**
   * Draws every visible line anew with these tints (from scale.paint).
   * @param {Tints} tints @param {boolean} underline
   */
  tint(tints, underline) {
    this.tints = tints;
    this.underline = underline;
    this.repaint();
  }

  repaint() {
    for (const element of this.drawn.values()) element.remove();
    this.drawn.clear();
    this.draw();
  }

  visibleLines() {
    const first = Math.floor(this.element.scrollTop / LINE);
    const last = Math.ceil((this.element.scrollTop + this.element.clientHeight) / LINE);
    return [Math.max(0, first), Math.min(this.layout.lines - 1, last)];
  }

  draw() {
    if (this.tints === BARE) return;
    const [first, last] = this.visibleLines();
    const from = Math.max(0, first - OVERSCAN);
    const to = Math.min(this.layout.lines - 1, last + OVERSCAN);
    for (const [line, element] of this.drawn) {
      if (line >= from && line <= to) continue;
      element.remove();
      this.drawn.delete(line);
    }
    const fresh = document.createDocumentFragment();
    for (let line = from; line <= to; line++) {
      if (this.drawn.has(line)) continue;
      const element = this.line(line);
      this.drawn.set(line, element);
      fresh.append(element);
    }
    this.sizer.append(fresh);
    this.on.view(first, last);
  }

  /** @param {number} number */
  line(number) {
    const { token, lineStart, promptLines } = this.layout;
    const element = document.createElement("div");
    const first = token[lineStart[number]];
    const label = this.labelAt(number);
    let name = number === promptLines && number > 0 ? "tv-line tv-first" : "tv-line";
    const kind = this.turns.kinds[first];
    if (kind) name += kind === THINKING ? " tv-thinking" : " tv-tool";
    if (label && this.turns.starts.has(first)) name += " tv-turn";
    element.className = name;
    element.style.top = `${number * LINE + 8}px`;
    const gutter = document.createElement("span");
    gutter.className = label ? "tv-gutter tv-label" : "tv-gutter";
    const start = first - this.prompt;
    gutter.textContent = label || (start >= 0 ? start : number === 0 ? "prompt" : "");
    if (label) gutter.title = start >= 0 ? `${label}, from position ${start}` : label;
    element.append(gutter);
    for (let p = lineStart[number]; p < lineStart[number + 1]; p++) element.append(this.piece(p));
    return element;
  }

  /** The role or the kind of block that begins with a line, else "". @param {number} line */
  labelAt(line) {
    const first = this.layout.token[this.layout.lineStart[line]];
    if (!this.turns.breaks[first] || this.layout.lineOf[first] !== line) return "";
    return this.turns.starts.get(first) ?? this.turns.blocks.find((b) => b.first === first)?.label ?? "";
  }

  /** @param {number} p */
  piece(p) {
    const { token, text } = this.layout;
    const number = token[p];
    const index = number - this.prompt;
    if (index < 0) {
      const element = document.createElement("span");
      const cell = this.rollout.promptCells[number];
      element.className = `tv-prompt ${cell.kind}`;
      element.textContent = text.get(p) ?? cell.lines[0];
      return element;
    }
    const cell = this.rollout.cells[index];
    const element = /** @type {HTMLElement} */ (OPTION.cloneNode(false));
    element.textContent = text.get(p) ?? cell.lines[0];
    element.className = this.classes(index, cell.kind);
    if (p > 0 && token[p - 1] === number) {
      element.setAttribute("data-part", String(index));
      element.setAttribute("aria-hidden", "true");
      return element;
    }
    element.setAttribute("data-index", String(index));
    if (this.noted.has(index)) element.setAttribute("aria-label", `${element.textContent}, marked`);
    if (index === this.selected) markActive(element, true);
    return element;
  }

  /** @param {number} index @param {string} kind */
  classes(index, kind) {
    const { levels, signs } = this.tints;
    let name = `tv-tok ${kind} ${classOf(levels[index], signs[index])}`;
    if (this.underline) {
      const thick = Math.round(levels[index] / 16);
      if (thick) name += signs[index] < 0 ? ` over${thick}` : ` under${thick}`;
    }
    const weights = this.tints.metric.weights ?? this.rollout.columns.mask;
    if (weights && weights[index] === 0) name += " masked";
    if (this.hits.has(index)) name += index === this.hit ? " hit now" : " hit";
    if (index === this.selected) name += " pinned";
    if (this.noted.has(index)) name += " marked";
    if (index === this.divergence) name += " diverges";
    return name;
  }

  /** @returns {NodeListOf<HTMLElement>} @param {number} index */
  elementsOf(index) {
    return this.sizer.querySelectorAll(`[data-index="${index}"],[data-part="${index}"]`);
  }

  /** Marks a token as the pinned one (−1: none) and tells assistive technology. @param {number} index */
  select(index) {
    const before = this.selected;
    this.selected = index;
    for (const at of [before, index]) {
      if (at < 0) continue;
      for (const element of this.elementsOf(at)) {
        element.classList.toggle("pinned", at === index);
        if (element.dataset.index) markActive(element, at === index);
      }
    }
    if (index >= 0) this.element.setAttribute("aria-activedescendant", ACTIVE);
    else this.element.removeAttribute("aria-activedescendant");
  }

  /**
   * Marks the tokens that a search has found, and the match that is shown by its first token.
   * @param {Set<number>} hits @param {number} hit
   */
  markHits(hits, hit) {
    this.hits = hits;
    this.hit = hit;
    this.repaint();
  }

  /** Shows which tokens somebody has marked. @param {Set<number>} tokens */
  markNoted(tokens) {
    if (tokens.size === this.noted.size && [...tokens].every((index) => this.noted.has(index))) return;
    this.noted = tokens;
    this.repaint();
  }

  /**
   * Marks where another completion goes another way; −1: nowhere. It is drawn with the next tints.
   * @param {number} index
   */
  markDivergence(index) {
    this.divergence = index;
  }

  /**
   * The token on the line after or before that stands nearest to this one.
   * @param {number} index @param {number} step
   */
  tokenAcross(index, step) {
    return tokenAcross(this.layout, this.rollout.cells, this.prompt, index, step);
  }

  /** @param {number} index */
  lineOf(index) {
    return this.layout.lineOf[index + this.prompt];
  }

  /** The first completion token on a line; past the last line their count. @param {number} line */
  tokenAtLine(line) {
    if (line >= this.layout.lines) return this.rollout.n;
    return Math.max(0, this.layout.token[this.layout.lineStart[line]] - this.prompt);
  }

  /** Scrolls a token into view, to the middle when it was out of it. @param {number} index */
  reveal(index) {
    const line = this.lineOf(index);
    const [first, last] = this.visibleLines();
    if (line <= first || line >= last - 1) this.centre(line);
  }

  /** @param {number} line */
  centre(line) {
    this.element.scrollTop = Math.max(0, line * LINE - this.element.clientHeight / 2);
    this.draw();
  }
}

/** @param {Element} element @param {boolean} active */
function markActive(element, active) {
  element.id = active ? ACTIVE : "";
  element.setAttribute("aria-selected", active ? "true" : "false");
}

/** @param {Event} event */
function indexAt(event) {
  const element = event.target instanceof Element && event.target.closest("[data-index],[data-part]");
  return element ? Number(element.getAttribute("data-index") ?? element.getAttribute("data-part")) : null;
}
