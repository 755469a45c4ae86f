// The same prompt at other steps and in other runs: a slider over the probe's steps, and lists.
import { get } from "../../lib/api.js";
import { button, debounce, fill, h } from "../../lib/dom.js";
import { fixed, integer } from "../../lib/format.js";
import { empty, failed, loading } from "../../lib/panel_states.js";
import { openRollout } from "../open.js";
import { sameRollout, shownToken } from "../state.js";
import { reasonAgainst, toFetch, valuesOf } from "../text/metrics.js";
import { withMetric } from "../text/tinting.js";
import { relatedTable, stepsTable } from "./over_time_tables.js";

const MAX_LISTED = 300; // rollouts of a list
const FRAME = 900; // ms a step is shown while it plays
const AHEAD_TOKENS = 150_000; // fetched before the slider moves, over all steps

/** @implements {Panel} */
export class OverTime {
  /** What update() was told last. @type {RolloutView & {index: number}} */
  shown;

  /**
   * `on`: open(id, options) → promise; compare(id | null); settled() once the slider rests.
   * @param {OverTimeActions} on
   */
  constructor(on) {
    this.on = on;
    /** @type {(keyof ViewState)[]} */
    this.follows = ["rollout", "pinned", "pointed", "chosen", "compared"];
    this.element = h("section", { class: "over-time", "aria-label": "Over time" });
    /** @type {HTMLElement | null} */
    this.steps = null;
    this.samplesBody = h("div");
    this.othersBody = h("div");
    this.timer = 0;
    /** @type {RelatedItem[]} */
    this.series = []; // the steps of one completion, this rollout among them
    /** @type {RelatedItem[]} */
    this.samples = [];
    /** @type {RelatedItem[]} */
    this.probes = [];
    /** @type {Page<RelatedItem>} */
    this.others = { items: [], total: 0 };
    this.unlisted = 0;
    /** @type {Map<string, Rollout>} */
    this.loaded = new Map(); // id → rollout of the series
    this.turn = 0;
    this.slider = h("input", {
      type: "range",
      min: "0",
      step: "1",
      class: "ot-slider",
      "aria-label": "Step",
      oninput: () => {
        this.stop();
        this.go(Number(this.slider.value));
      },
    });
    this.play = button("Play", () => (this.timer ? this.stop() : this.start()), {
      class: "btn small ot-play",
    });
    this.now = h("output", { class: "ot-now num" });
    this.settled = debounce(250, on.settled);
  }

  /** @param {RolloutView} snapshot */
  update(snapshot) {
    const before = this.shown;
    const index = shownToken(snapshot);
    const { rollout, chosen, compared } = snapshot;
    this.shown = { ...snapshot, index };
    const isOther = !sameRollout(before?.rollout, rollout);
    if (isOther && !this.series.some((item) => item.id === rollout.meta.id)) {
      this.stop();
      this.load(rollout);
    } else if (isOther || before.compared?.id !== compared?.id) this.mark();
    else if (before.index !== index || before.chosen !== chosen) this.drawSteps();
  }

  closed() {
    this.stop();
  }

  /** @param {Rollout} rollout */
  async load(rollout) {
    const turn = ++this.turn;
    this.series = [];
    this.steps = null;
    this.loaded = new Map();
    loading(this.element, "other rollouts of this prompt");
    try {
      const related = await get(`rollouts/${rollout.meta.id}/related`, { limit: MAX_LISTED });
      if (turn === this.turn) this.take(rollout, related);
    } catch (error) {
      if (turn === this.turn) failed(this.element, error, () => this.load(rollout));
    }
  }

  /** @param {Rollout} rollout @param {Related} related */
  take(rollout, { items, total, others }) {
    const self = { ...rollout.meta, same_completion: true };
    const probes = items.filter((item) => item.kind === "probe");
    const samples = items.filter((item) => item.kind !== "probe");
    const same = probes.filter((item) => item.same_completion);
    (self.kind === "probe" ? same : samples).push(self);
    this.series = same.sort((a, b) => a.step - b.step);
    this.probes = probes;
    this.samples = samples.sort((a, b) => a.step - b.step || a.sample - b.sample || (a.id < b.id ? -1 : 1));
    this.unlisted = total - items.length;
    this.others = others;
    this.draw();
    this.fetchAhead(this.turn);
  }

  draw() {
    const { series, samples, others, probes } = this;
    if (series.length < 2 && samples.length + others.items.length + probes.length < 2) {
      empty(
        this.element,
        "This prompt was answered once",
        "To follow a prompt, set prompts.probe: held-out prompts that every evaluation scores again and samples anew. Other runs with the same prompt are listed here as well.",
      );
      return;
    }
    this.steps = h("div", { class: "ot-steps" });
    fill(
      this.element,
      series.length > 1 ? this.seriesPart() : this.noSeries(),
      section("New samples, by step", this.samplesBody),
      section("Other runs", this.othersBody),
    );
    this.mark();
  }

  seriesPart() {
    this.slider.max = String(this.series.length - 1);
    const controls = h("div", { class: "ot-control" }, this.play, this.slider, this.now);
    return section("The same tokens at every evaluation", controls, this.steps);
  }

  /** Where this completion has no series, the prompt's own one may have. */
  noSeries() {
    const [first] = this.probes;
    if (!first) return null;
    const text = "The initial student’s completion of this prompt is scored again at every evaluation: ";
    const open = button("Open it", () => this.open(first.id), { class: "btn small" });
    return section("The same tokens at every evaluation", h("p", { class: "muted" }, text), h("p", {}, open));
  }

  /** The index in the series of the open rollout, −1 where it is not of it. */
  get at() {
    return this.series.findIndex((item) => item.id === this.shown.rollout.meta.id);
  }

  /** Shows which step is open, and with what it is compared. */
  mark() {
    if (!this.steps) return;
    const { at } = this;
    if (at >= 0) {
      this.slider.value = String(at);
      this.slider.setAttribute("aria-valuetext", `step ${this.series[at].step}`);
      this.now.textContent = `step ${integer(this.series[at].step)}`;
    }
    this.drawSteps();
    const listed = {
      here: this.shown.rollout.meta.id,
      compared: this.shown.compared?.id,
      open: (/** @type {string} */ id) => this.open(id),
      compare: this.on.compare,
    };
    const { samples, others } = this;
    fill(this.samplesBody, relatedTable(samples, { ...listed, across: false, more: this.unlisted }));
    const more = others.total - others.items.length;
    fill(this.othersBody, relatedTable(others.items, { ...listed, across: true, more }));
  }

  drawSteps() {
    if (!this.steps || this.series.length < 2) return;
    const { rollout, chosen, index, compared } = this.shown;
    const cell = index >= 0 ? rollout.cells[index] : null;
    const token = cell && {
      text: cell.raw,
      metric: chosen,
      valueAt: (/** @type {string} */ id) => this.valueAt(id, chosen, index),
    };
    fill(
      this.steps,
      stepsTable(this.series, {
        here: rollout.meta.id,
        compared: compared?.id,
        token,
        go: (at) => {
          this.stop();
          this.go(at);
        },
        compare: this.on.compare,
      }),
    );
  }

  /** @param {string} id @param {Metric} metric @param {number} index */
  valueAt(id, metric, index) {
    const rollout = this.loaded.get(id);
    if (!rollout || reasonAgainst(metric, rollout) || toFetch(metric, rollout).length) return "–";
    return fixed(valuesOf(metric, rollout)[index]);
  }

  /** @param {string} id */
  open(id) {
    this.stop();
    this.on.open(id, { pos: this.shown.pinned });
  }

  /** Recolours the text with the values of a step of the series. @param {number} at */
  async go(at) {
    const item = this.series[at];
    if (!item || at === this.at) return;
    const { pinned, compared } = this.shown;
    await this.on.open(item.id, { pos: pinned, history: "none", other: compared?.id ?? null });
    this.settled();
  }

  start() {
    const last = this.series.length - 1;
    let at = this.at >= last ? -1 : this.at;
    const next = async () => {
      if (at >= last) return this.stop();
      at += 1;
      await this.go(at);
      if (this.timer) this.timer = setTimeout(next, FRAME);
    };
    this.play.textContent = "Pause";
    this.timer = 1; // plays, though nothing is due yet
    next();
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.play.textContent = "Play";
  }

  /** @param {number} turn */
  async fetchAhead(turn) {
    let tokens = 0;
    for (const item of this.series) {
      tokens += item.tokens;
      if (tokens > AHEAD_TOKENS || turn !== this.turn) return;
      const rollout = await openRollout(item.id).catch(() => null);
      if (!rollout) continue;
      this.loaded.set(item.id, await withMetric(rollout, this.shown.chosen).catch(() => rollout));
    }
    if (turn === this.turn && this.shown.index >= 0) this.drawSteps();
  }
}

/** @param {string} title @param {...Child} children */
function section(title, ...children) {
  return h("section", { class: "ot-part" }, h("h2", { text: title }), children);
}
