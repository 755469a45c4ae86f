// The metric along the rollout, under the text: highest and mean value of each pixel column.
import { h, onFrame } from "../../lib/dom.js";
import { integer, number } from "../../lib/format.js";
import { colourOf } from "../../lib/tints.js";

const HEIGHT = 64;

export class Profile {
  /** @type {Tints} */
  tints;

  /** `jump(index)` is called with the worst token near a click. @param {(index: number) => unknown} jump */
  constructor(jump) {
    this.canvas = h("canvas", { class: "pf-canvas" });
    this.view = h("div", { class: "pf-view" });
    this.cursor = h("div", { class: "pf-cursor", hidden: true });
    this.top = h("span", { class: "pf-top" });
    this.start = h("span", { class: "pf-start", text: "0" });
    this.end = h("span", { class: "pf-end" });
    this.element = h(
      "div",
      { class: "profile", id: "profile", "aria-hidden": "true" },
      this.canvas,
      this.view,
      this.cursor,
      this.top,
      this.start,
      this.end,
    );
    this.element.addEventListener(
      "click",
      onFrame((/** @type {MouseEvent} */ e) => jump(this.nearest(e))),
    );
  }

  /** @param {MouseEvent} event */
  nearest(event) {
    const box = this.canvas.getBoundingClientRect();
    const n = this.tints.values.length;
    const at = ((event.clientX - box.left) / box.width) * n;
    const reach = Math.max(0.5, (3 / box.width) * n);
    let best = Math.max(0, Math.min(n - 1, Math.floor(at)));
    const values = this.tints.values;
    for (let i = Math.max(0, Math.floor(at - reach)); i <= Math.min(n - 1, at + reach); i++) {
      if (Math.abs(values[i]) > Math.abs(values[best])) best = i;
    }
    return best;
  }

  /** @param {Tints} tints */
  draw(tints) {
    this.tints = tints;
    const width = Math.max(1, this.element.clientWidth);
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = width * ratio;
    this.canvas.height = HEIGHT * ratio;
    const pen = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    pen.scale(ratio, ratio);
    const bins = binsOf(tints, width);
    const signed = Boolean(tints.metric.signed);
    const zero = signed ? HEIGHT / 2 : HEIGHT - 1;
    /** @param {number} value */
    const tall = (value) => Math.min(1, Math.abs(value) / tints.top) * (signed ? zero - 2 : zero - 4);
    const step = width / bins.high.length;
    this.bars(pen, bins, { step, zero, tall, signed });
    pen.fillStyle = getComputedStyle(this.element).getPropertyValue("color");
    pen.globalAlpha = 0.35;
    pen.fillRect(0, zero, width, 1);
    const unit = tints.metric.unit ?? "nats";
    this.top.textContent = `${signed ? "±" : ""}${number(tints.top)}${unit ? ` ${unit}` : ""}`;
    this.end.textContent = integer(tints.values.length - 1);
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {ProfileBins} bins
   * @param {{step: number, zero: number, tall: (value: number) => number, signed: boolean | undefined}} options
   */
  bars(pen, bins, { step, zero, tall, signed }) {
    for (let x = 0; x < bins.high.length; x++) {
      const value = bins.high[x];
      if (!value) continue;
      const sign = signed ? Math.sign(value) * (this.tints.metric.warm ?? 1) : 0;
      pen.fillStyle = colourOf(Math.max(20, bins.level[x]), sign);
      const size = Math.max(1, tall(value));
      pen.fillRect(
        x * step,
        value < 0 ? zero + 1 : zero - size,
        Math.max(1, step - (step > 3 ? 1 : 0)),
        size,
      );
    }
  }

  /** @param {number} from @param {number} to */
  mark(from, to) {
    const n = Math.max(1, this.tints.values.length);
    this.view.style.left = `${(from / n) * 100}%`;
    this.view.style.width = `${Math.max(0.2, ((to - from) / n) * 100)}%`;
  }

  /** @param {number} index */
  markPin(index) {
    this.cursor.hidden = index < 0;
    if (index >= 0) this.cursor.style.left = `${((index + 0.5) / this.tints.values.length) * 100}%`;
  }
}

/**
 * The value of greatest size in each bin, with its level; a bin is a token while there is room.
 * @param {Tints} tints @param {number} width
 */
function binsOf({ values, levels }, width) {
  const count = Math.min(values.length, Math.floor(width));
  const high = new Float32Array(count);
  const level = new Uint8Array(count);
  for (let i = 0; i < values.length; i++) {
    const bin = Math.floor((i * count) / values.length);
    if (Math.abs(values[i]) > Math.abs(high[bin])) {
      high[bin] = values[i];
      level[bin] = levels[i];
    }
  }
  return { high, level };
}
