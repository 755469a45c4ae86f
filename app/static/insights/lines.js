// By step: overlap of the two top-k sets, and the probability of stopping.
import { Chart } from "../lib/charts.js";
import { h, link, select } from "../lib/dom.js";
import { integer, percent, probability } from "../lib/format.js";
import { visible } from "../rollout/text/glyphs.js";
import { asTable, InsightPanel } from "./panel.js";

const SHARE = { yaxis: { range: [0, 1.02], tickformat: ".0%" } };
/** @type {Option[]} */
const POSITIONS = [
  ["end", "last token"],
  ["before", "token before it"],
  ["cut", "last token, truncated"],
];

/** @type {InsightColumn[]} */
const STOP_COLUMNS = [
  ["Step", ""],
  ["Rollouts", "r"],
  ["Student", "r"],
  ["Teacher", "r"],
];

/**
 * A chart without a panel of its own; the step of a clicked point goes to `open`.
 * @param {string} title @param {(step: number) => unknown} open
 */
function chartIn(title, open) {
  const chart = new Chart(title, "", open);
  return { chart, element: h("div", { class: "chart insight-chart" }, chart.plot, chart.empty) };
}

export class Overlap extends InsightPanel {
  /** @param {Insights} insights */
  constructor(insights) {
    super(insights, "overlap", "Overlap of the top-k sets", "fraction, by step");
    const made = chartIn("Overlap", (step) => (location.href = this.at(step)));
    this.chart = made.chart;
    this.plot = made.element;
  }

  /** @param {number} step */
  at(step) {
    return this.tokens({ min_step: null, max_step: null, step });
  }

  /** @param {OverlapInsight} answer */
  draw(answer) {
    const { step, k, tokens, capped, stored, cap } = answer;
    if (!step.length)
      return this.none(
        "No alternatives",
        "No selected record holds the top-k of both models (records.top_k).",
      );
    const rows = () =>
      step.map((s, i) => [
        link(s, this.at(s)),
        integer(tokens[i]),
        percent(answer.overlap[i], 1),
        percent(answer.student_mass[i], 1),
        percent(answer.teacher_mass[i], 1),
      ]);
    this.show(
      `Mean |S∩T|/k of the student’s and the teacher’s top ${k.join(" or ")} tokens, and the probability mass that each puts on the shared ones.${read({ capped, stored, cap })}`,
      this.plot,
      asTable(
        "Overlap of the top-k sets",
        [
          ["Step", ""],
          ["Tokens", "r"],
          ["Overlap", "r"],
          ["Student’s mass", "r"],
          ["Teacher’s mass", "r"],
        ],
        rows,
      ),
    );
    /** @param {"overlap" | "student_mass" | "teacher_mass"} name @param {string} label */
    const line = (name, label) => ({ name: label, x: step, y: answer[name] });
    this.chart.draw(
      [
        line("overlap", "overlap"),
        line("student_mass", "student’s mass on it"),
        line("teacher_mass", "teacher’s mass on it"),
      ],
      SHARE,
    );
  }
}

export class Stops extends InsightPanel {
  /** @param {Insights} insights */
  constructor(insights) {
    super(insights, "stops", "Probability of stopping", "mean, by step");
    const made = chartIn("Stopping", (step) => (location.href = this.at(step)));
    this.chart = made.chart;
    this.plot = made.element;
    this.chosen = 0;
    this.position = "end";
  }

  /** @param {number} step */
  at(step) {
    const where = { min_step: null, max_step: null, step };
    return this.tokens(
      this.position === "end"
        ? { ...where, token_id: this.answer.stops[this.chosen].token_id }
        : { ...where, finish_reason: this.position === "cut" ? "length" : "stop" },
    );
  }

  /** @param {StopsInsight} answer */
  draw(answer) {
    const { stops } = answer;
    if (!stops.length) return this.none("No stop token", "No selected rollout ended with a stop token.");
    this.chosen = Math.min(this.chosen, stops.length - 1);
    const stop = stops[this.chosen];
    const series = stop.places[this.position];
    const nothing = "No selected rollout has such a token with a known probability.";
    this.show(
      this.describe(answer, stop.endings, series),
      this.choices(answer),
      series.step.length ? this.plot : h("p", { class: "muted pad", text: nothing }),
      asTable("Probability of stopping", STOP_COLUMNS, () => this.rows(series)),
    );
    if (!series.step.length) return;
    const lines = [
      { name: "student", x: series.step, y: series.student },
      { name: "teacher", x: series.step, y: series.teacher },
    ];
    this.chart.draw(lines, SHARE);
  }

  /** Which stop token, and at which token of a rollout. @param {StopsInsight} answer */
  choices(answer) {
    /** @param {(value: string) => object} change */
    const pick = (change) => (/** @type {string} */ value) => {
      Object.assign(this, change(value));
      this.draw(answer);
    };
    const byToken = pick((value) => ({ chosen: Number(value) }));
    const byPosition = pick((position) => ({ position }));
    /** @type {Option[]} */
    const ids = answer.stops.map((s, i) => [String(i), `${visible(s.text)} (id ${s.token_id})`]);
    return h(
      "div",
      { class: "row insight-choice" },
      select(ids, String(this.chosen), byToken, { "aria-label": "Stop token" }),
      select(POSITIONS, this.position, byPosition, { "aria-label": "Position" }),
    );
  }

  /** @param {StopsInsight} answer @param {number} endings @param {StopSeries} series */
  describe(answer, endings, series) {
    const rollouts = this.position === "cut" ? "truncated (length)" : "finished (EOS)";
    const bounded = Math.max(0, ...series.student_bounded, ...series.teacher_bounded);
    const note = bounded
      ? ` In up to ${percent(bounded)} of a step’s rollouts it is not among the stored top-k: the chart then counts it as 0, the table gives its upper bound.`
      : "";
    return `Mean probability that each gives to this stop token, over ${rollouts} rollouts; ${integer(endings)} ended with it.${note}${read(answer)}`;
  }

  /** @param {StopSeries} series */
  rows(series) {
    /** @param {"student" | "teacher"} side @param {number} i */
    const text = (side, i) => {
      const [low, high] = [series[side][i], series[`${side}_most`][i]];
      return low < high ? `${probability(low)}–${probability(high)}` : probability(low);
    };
    return series.step.map((s, i) => [
      link(s, this.at(s)),
      integer(series.rollouts[i]),
      text("student", i),
      text("teacher", i),
    ]);
  }
}

/** @param {Pick<InsightFacts, "capped" | "stored" | "cap">} facts */
function read({ capped, stored, cap }) {
  return capped
    ? ` From an even sample of the rollouts: at most ${integer(cap)} of ${integer(stored)} tokens are read.`
    : "";
}
