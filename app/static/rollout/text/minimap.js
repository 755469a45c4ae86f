// The whole rollout as a strip beside the text: each line's highest value, the view marked.
import { h, onFrame } from "../../lib/dom.js";
import { LEVELS } from "../../lib/palette.js";
import { colourOf } from "../../lib/tints.js";
import { LINE } from "./tokens.js";

const WIDTH = 48;
const THICK = 12;

export class Minimap {
  /**
   * `jump(line)` is called when the strip is clicked or dragged over.
   * @param {(line: number) => unknown} jump
   */
  constructor(jump) {
    this.jump = jump;
    this.lines = 0;
    this.unit = 0; // px of a line, 0 before anything is drawn
    this.canvas = h("canvas", { class: "mm-canvas" });
    this.view = h("div", { class: "mm-view" });
    this.pin = h("div", { class: "mm-pin", hidden: true });
    this.element = h(
      "div",
      {
        class: "minimap",
        id: "minimap",
        "aria-hidden": "true",
        title: "The metric along the rollout; click to jump",
      },
      this.canvas,
      this.view,
      this.pin,
    );
    const go = onFrame((/** @type {PointerEvent} */ e) => this.jumpTo(e));
    this.element.addEventListener("pointerdown", (e) => {
      this.element.setPointerCapture(e.pointerId);
      go(e);
    });
    this.element.addEventListener("pointermove", (e) => e.buttons && go(e));
  }

  /** @param {MouseEvent} event */
  jumpTo(event) {
    const box = this.element.getBoundingClientRect();
    const y = Math.max(0, Math.min(box.height - 1, event.clientY - box.top));
    this.jump(Math.min(this.lines - 1, Math.floor(y / this.unit)));
  }

  /** @param {TextLayout} layout @param {Tints} tints @param {number} promptLength */
  draw(layout, tints, promptLength) {
    this.lines = layout.lines;
    const height = Math.max(1, this.element.clientHeight);
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = WIDTH * ratio;
    this.canvas.height = height * ratio;
    const pen = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    pen.scale(ratio, ratio);
    this.unit = Math.min(LINE, height / layout.lines); // beside its line where all fit
    const rows = perRow(layout, tints, promptLength, this.unit, height);
    for (let y = 0; y < rows.level.length; y++) {
      const level = rows.level[y];
      if (!level) continue;
      pen.fillStyle = colourOf(level, rows.sign[y]);
      const tall = this.unit >= 2 ? Math.min(this.unit - 1, THICK) : 1;
      const at = this.unit >= 2 ? y * this.unit + (this.unit - tall) / 2 : y;
      pen.fillRect(2, at, Math.max(2, (level / LEVELS) * (WIDTH - 4)), tall);
    }
  }

  /** @param {number} first @param {number} last */
  mark(first, last) {
    this.view.style.transform = `translateY(${first * this.unit}px)`;
    this.view.style.height = `${Math.max(6, (last - first + 1) * this.unit)}px`;
  }

  /** @param {number | null} line */
  markPin(line) {
    this.pin.hidden = line === null;
    if (line !== null) this.pin.style.transform = `translateY(${(line + 0.5) * this.unit - 1}px)`;
  }
}

/**
 * Highest level of each row of the strip: a row is a line, or a pixel where lines are thinner.
 * @param {TextLayout} layout
 * @param {Tints} tints
 * @param {number} promptLength
 * @param {number} unit
 * @param {number} height
 */
function perRow(layout, tints, promptLength, unit, height) {
  const rows = unit >= 2 ? layout.lines : Math.ceil(height);
  const level = new Uint8Array(rows);
  const sign = new Int8Array(rows);
  const { levels, signs } = tints;
  for (let i = 0; i < levels.length; i++) {
    const line = layout.lineOf[i + promptLength];
    const row = unit >= 2 ? line : Math.min(rows - 1, Math.floor(line * unit));
    if (levels[i] > level[row]) {
      level[row] = levels[i];
      sign[row] = signs[i];
    }
  }
  return { level, sign };
}
