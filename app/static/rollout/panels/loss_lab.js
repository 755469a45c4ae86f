// Stored tokens under another objective, mask, clip or prefix: the loss that would have been.
import { get, page } from "../../lib/api.js";
import { Chart } from "../../lib/charts.js";
import { fill, h } from "../../lib/dom.js";
import { fixed, integer, number, percent } from "../../lib/format.js";
import { empty, failed, loading } from "../../lib/panel_states.js";
import { sameRollout, shownToken } from "../state.js";
import { LabForm } from "./loss_lab_form.js";

const REST = 60; // ms that the pointer rests on a token

/** @implements {Panel} */
export class LossLab {
  /**
   * `tintBy(metric)` tints the text by the loss of each token; null: by the chosen metric again.
   * @param {(metric: Metric | null) => unknown} tintBy
   */
  constructor(tintBy) {
    this.tintBy = tintBy;
    /** @type {(keyof ViewState)[]} */
    this.follows = ["rollout", "pinned", "pointed", "compared"];
    /** @type {Rollout | null} */
    this.rollout = null;
    /** @type {Compared | null} */
    this.compared = null;
    /** @type {LabAnswer | null} */
    this.answer = null;
    /** @type {Promise<unknown> | null} */
    this.described = null;
    this.runRequest = "";
    this.turn = 0;
    this.index = -1;
    this.form = new LabForm(() => this.refresh());
    this.result = h("div", { class: "ll-result", "aria-live": "polite" });
    this.tokenPart = h("div", { class: "ll-token" });
    this.chart = new Chart("Loss by step", "", (step) => this.openStep(step));
    this.runPart = h("div", { class: "ll-run-face" });
    this.run = h(
      "details",
      { class: "ll-run", ontoggle: () => this.refreshRun() },
      h("summary", { text: "Whole run" }),
      this.runPart,
      this.chart.element,
    );
    this.chart.element.hidden = true;
    this.element = h(
      "section",
      { class: "loss-lab", "aria-label": "Loss lab" },
      this.form.element,
      this.result,
      this.tokenPart,
      this.run,
    );
  }

  /** @param {RolloutView} snapshot */
  update(snapshot) {
    const { rollout, pinned, compared } = snapshot;
    const index = shownToken(snapshot);
    const isOther = !sameRollout(this.rollout, rollout);
    const isCompared = compared?.id !== this.compared?.id;
    Object.assign(this, { rollout, compared });
    if (isOther) this.begin();
    else if (isCompared) this.refresh(); // the tint has gone back to the chosen metric
    if (isOther || index !== this.index) this.showToken(index, index === pinned);
  }

  begin() {
    this.answer = null;
    fill(this.tokenPart);
    this.refresh();
  }

  /** The page's own metric comes back as soon as another tab is open. */
  closed() {
    this.turn++;
    this.rollout = null;
    this.tintBy(null);
  }

  async refresh() {
    const { rollout } = this;
    if (!rollout) return;
    const turn = ++this.turn;
    if (!this.answer) loading(this.result, "the loss");
    try {
      await this.describe();
      const answer = await get(`rollouts/${rollout.meta.id}/lab`, this.form.params());
      if (turn === this.turn) this.draw(answer);
    } catch (error) {
      if (turn === this.turn) this.fail(error);
    }
  }

  /** Objectives and their parameters are the server's to name; fetched once. */
  describe() {
    this.described ??= get("config/schema").then(
      (/** @type {any} */ schema) => this.form.describe(schema),
      (error) => {
        this.described = null;
        throw error;
      },
    );
    return this.described;
  }

  /** @param {ShownError} error */
  fail(error) {
    this.answer = null;
    this.element.dataset.ready = "false";
    fill(this.tokenPart);
    this.tintBy(null);
    if (error.where === "objective" || error.where === "mask") {
      empty(
        this.result,
        "Not in this record",
        error.message,
        h("p", { text: "Choose another objective or mask; opd score adds a teacher’s scores." }),
      );
      return;
    }
    failed(this.result, error, () => this.refresh());
  }

  /** @param {LabAnswer} answer */
  draw(answer) {
    this.answer = answer;
    this.form.offer(answer.unavailable, answer.trained ? answer.trained.objective.name : null);
    this.form.placeholders(answer.objective, answer.temperature);
    this.tintBy(this.metric(answer));
    this.drawResult(answer);
    this.showToken(this.index, true);
    this.refreshRun();
    this.element.dataset.ready = "true";
  }

  /**
   * What the tokens are tinted by: the loss, at least; NaN where a token does not count.
   * @param {LabAnswer} answer @returns {Metric}
   */
  metric(answer) {
    const values = Float32Array.from(answer.low, (v, i) => (answer.weights[i] > 0 ? (v ?? Infinity) : NaN));
    const { name } = answer.objective;
    const label = this.form.label(name);
    return {
      key: `lab:${JSON.stringify(this.form.params())}`,
      lab: true,
      label: `Loss lab: ${label}`,
      means: `loss lab: ${label} per token, ${certainty(answer)}; masked tokens are struck out`,
      of: () => values,
      needs: [],
      signed: this.form.signed(name),
      warm: 1,
      weights: answer.weights,
    };
  }

  /** @param {LabAnswer} answer */
  drawResult(answer) {
    const { trained } = answer;
    /** @type {[string, {name: string} | undefined, {loss: LossBounds | null} | null][]} */
    const sides = [
      ["as trained", trained?.objective, trained],
      ["in the lab", answer.objective, answer],
    ];
    const rows = sides.map(([label, objective, sums]) =>
      h(
        "tr",
        { "data-loss": label },
        h("th", { scope: "row", text: label }),
        h("td", { text: objective ? this.form.label(objective.name) : "" }),
        sums?.loss ? valueCell(sums.loss.low, sums.loss.high) : h("td", { class: "r", text: "–" }),
      ),
    );
    const figures = [
      ["tokens counted", `${integer(answer.kept)} of ${integer(answer.tokens)}`],
      [
        "clipped",
        answer.maybe_clipped_kept
          ? `${integer(answer.clipped_kept)} to ${integer(answer.clipped_kept + answer.maybe_clipped_kept)}`
          : integer(answer.clipped_kept),
      ],
      ["share of reverse KL kept", answer.kl_share === null ? "–" : percent(answer.kl_share, 1)],
    ];
    fill(
      this.result,
      h(
        "table",
        { class: "ll-table" },
        h("caption", { text: `Loss of this rollout (nats); in the lab: ${certainty(answer)}` }),
        h("tbody", {}, rows),
      ),
      h(
        "dl",
        { class: "ll-figures" },
        figures.map(([name, value]) =>
          h(
            "div",
            { class: "ll-row" },
            h("dt", { class: "muted", text: name }),
            h("dd", { class: "num r", "data-figure": name, text: value }),
          ),
        ),
      ),
      answer.notes.map((note) => h("p", { class: "muted ll-note", text: note })),
    );
  }

  /** Every objective at the token; the pinned one stays. @param {number} index @param {boolean} pinned */
  showToken(index, pinned) {
    this.index = index;
    clearTimeout(this.timer);
    if (!this.answer) return;
    if (index < 0) {
      fill(
        this.tokenPart,
        h("p", {
          class: "muted ll-note",
          text: "Point at a token to see it under every objective; click to pin it.",
        }),
      );
      delete this.tokenPart.dataset.index;
      return;
    }
    this.timer = setTimeout(() => this.loadToken(index, this.turn), pinned ? 0 : REST);
  }

  /** @param {number} index @param {number} turn */
  async loadToken(index, turn) {
    const { rollout } = this;
    if (!rollout) return;
    const stale = () => turn !== this.turn || index !== this.index || !sameRollout(rollout, this.rollout);
    try {
      const answer = await get(`rollouts/${rollout.meta.id}/lab/${index}`, this.form.params());
      if (!stale()) this.drawToken(index, answer.items);
    } catch (error) {
      if (!stale()) failed(this.tokenPart, error, () => this.loadToken(index, this.turn));
    }
  }

  /** @param {number} index @param {LabToken[]} items */
  drawToken(index, items) {
    const { answer } = this;
    if (!answer) return;
    const now = answer.objective.name;
    const counts = answer.weights[index] > 0;
    const clipped = answer.clipped.includes(index);
    const rows = items.map((item) =>
      h(
        "tr",
        {
          "data-objective": item.objective,
          class: item.objective === now ? "ll-now" : "",
          title: item.reason || (item.exact ? "exact" : boundsText(item.low ?? Infinity, item.high)),
        },
        rowHead(this.form.label(item.objective)),
        item.reason
          ? h("td", { class: "r muted", text: "not in this record" })
          : valueCell(item.low ?? Infinity, item.high),
        h("td", {
          class: "unit",
          text: item.reason ? "" : item.exact ? "exact" : item.high === null ? "at least" : "bounds",
        }),
      ),
    );
    const state = counts ? (clipped ? ", clipped" : "") : ", masked";
    this.tokenPart.dataset.index = String(index);
    fill(
      this.tokenPart,
      h(
        "table",
        { class: "ll-table" },
        h("caption", { text: `Token at position ${integer(index)}${state} (nats)` }),
        h("tbody", {}, rows),
      ),
    );
  }

  async refreshRun() {
    if (!this.run.open || !this.rollout) return;
    const { run_id: run } = this.rollout.meta;
    const params = this.form.params();
    const request = `${run} ${JSON.stringify(params)}`;
    if (this.runRequest === request) return;
    this.runRequest = request;
    if (!this.chart.drawn) loading(this.runPart, "all stored steps");
    try {
      const answer = await get(`runs/${run}/lab`, params);
      if (this.runRequest === request) this.drawRun(answer);
    } catch (error) {
      if (this.runRequest !== request) return;
      this.runRequest = "";
      this.chart.element.hidden = true;
      failed(this.runPart, error, () => this.refreshRun());
    }
  }

  /** @param {LabRun} answer */
  drawRun(answer) {
    const { items } = answer;
    this.chart.element.hidden = !items.length;
    if (!items.length) {
      empty(
        this.runPart,
        "No stored steps",
        "This run kept no training rollouts with their tokens (records.rollouts_per_step).",
      );
      return;
    }
    const x = items.map((item) => item.step);
    /** @param {string} name @param {(item: LabStep) => number | null} of @param {object} [more] */
    const line = (name, of, more) => ({ name, x, y: items.map(of), ...more });
    const traces = [
      line("as trained", (item) => item.logged ?? item.trained?.low ?? null),
      line(answer.exact ? "in the lab" : "in the lab, at least", (item) => item.loss?.low ?? null),
    ];
    if (!answer.exact)
      traces.push(
        line("at most", (item) => item.loss?.high ?? null, {
          fill: "tonexty",
          mode: "lines",
          line: { width: 0.5 },
          showlegend: false,
        }),
      );
    this.chart.draw(traces);
    const kept = items.reduce((total, item) => total + item.kept, 0);
    const tokens = items.reduce((total, item) => total + item.tokens, 0);
    const skipped = answer.every > 1 ? ` Only one stored step in ${answer.every} was read.` : "";
    const open = items.some((item) => item.loss && item.loss.high === null)
      ? " Where the band is missing there is no upper bound."
      : "";
    fill(
      this.runPart,
      h("p", {
        class: "muted ll-note",
        text: `${integer(items.length)} steps, ${integer(kept)} of ${integer(tokens)} stored tokens counted.${open}${skipped}`,
      }),
    );
  }

  /** @param {number} step */
  openStep(step) {
    location.href = page("rollouts", { run: this.rollout?.meta.run_id, step: Math.round(step) });
  }
}

/** @param {string} text */
function rowHead(text) {
  return h("th", { scope: "row", title: text, text });
}

/** @param {Pick<LabAnswer, "exact" | "top_k" | "high">} answer */
function certainty(answer) {
  if (answer.exact) return "exact";
  const bounds = answer.top_k ? `bounded by the stored top-${answer.top_k}` : "bounded by what is stored";
  return answer.high.includes(null)
    ? `at least (${bounds})`
    : `from a lower bound (tinted) to an upper one (${bounds})`;
}

/** @param {number} low @param {number | null} high */
function boundsText(low, high) {
  return high === null
    ? `at least ${number(low, 6)}; the record allows no upper bound`
    : `from ${number(low, 6)} to ${number(high, 6)}`;
}

/**
 * One number where both ends print the same, else both, or only the lower.
 * @param {number} low @param {number | null} high
 */
function valueText(low, high) {
  if (high === null) return `≥ ${fixed(low, 4)}`;
  const [a, b] = [fixed(low, 4), fixed(high, 4)];
  return a === b ? a : `${a} … ${b}`;
}

/** @param {number} low @param {number | null} high */
function valueCell(low, high) {
  return h("td", {
    class: "num r",
    text: valueText(low, high),
    title: low === high ? "exact" : boundsText(low, high),
  });
}
