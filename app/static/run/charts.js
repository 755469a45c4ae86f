// Which charts a run has, and how they are made of its steps and evaluations.
import { get, page } from "../lib/api.js";
import { smoothed } from "../lib/charts/curves.js";
import { teacherLevels, teacherScores } from "../lib/charts/reference_lines.js";
import { metricOf } from "../lib/charts/run_metrics.js";
import { Chart } from "../lib/charts.js";
import { h } from "../lib/dom.js";
import { duration, nats, number, percent, plain, short } from "../lib/format.js";
import { ChartControls } from "./chart_controls.js";
import { countsText } from "./counts.js";

const PHASES = ["sample", "teacher", "student", "optimizer", "store"];
/**
 * Without a title of its own a chart is called by its metric, whose unit it has.
 * @type {{title?: string, unit?: string, lines?: [column: string, label: string][], share?: boolean,
 *   score?: boolean, phases?: boolean, scale?: number, optional?: boolean}[]}
 */
const CHARTS = [
  { lines: [["reverse_kl", "reverse KL"]] },
  { title: "Score", unit: "pass@1, ± standard error", score: true },
  { lines: [["completion_tokens", "length"]] },
  {
    title: "Entropy",
    unit: "nats per token",
    lines: [
      ["student_entropy", "student"],
      ["teacher_entropy", "teacher"],
    ],
  },
  {
    title: "Finished and top-1 agreement",
    unit: "",
    share: true,
    lines: [
      ["finished", "finished (EOS)"],
      ["same_top", "top-1 agreement"],
    ],
  },
  { title: "Time by phase", unit: "seconds per step", phases: true },
  {
    title: "GPU memory",
    unit: "GB, peak of the step",
    scale: 1e-9,
    optional: true, // a processor has none
    lines: [
      ["memory_peak", "allocated"],
      ["memory_reserved", "reserved"],
    ],
  },
];
/** @param {typeof CHARTS[number]} spec the metrics that a chart shows */
function metricsOf({ lines = [], score, phases }) {
  if (score) return ["pass@1", "teacher_pass@1"];
  return phases ? [...PHASES.map((name) => `seconds_${name}`), BESIDE] : lines.map(([name]) => name);
}

const BESIDE = "writing_seconds"; // what took its time while the step before trained
const KNOWN = new Set([
  BESIDE,
  "step",
  "attempt",
  "created_at",
  "tokens",
  "flops",
  ...CHARTS.flatMap((c) => (c.lines ?? []).map(([name]) => name)),
  ...PHASES.map((p) => `seconds_${p}`),
]);

export class RunCharts {
  /** @type {string} */
  print;
  /** @type {string[]} */
  names;
  /** Called when all charts are to be drawn anew, by what is chosen for them. */
  onDraw = () => {};

  /** @param {string} run */
  constructor(run) {
    this.run = run;
    /** @type {StepColumns} */
    this.columns = { step: [] };
    this.last = -1;
    /** @type {Evaluation[]} */
    this.scores = [];
    /** Why its figures count fewer prompts than were asked for. @type {EvaluationCount[]} */
    this.counts = [];
    /** @param {number} step */
    this.open = (step) => (location.href = page("rollouts", { run, step: Math.round(step) }));
    /** @type {Record<string, number>} */
    this.notFinite = {};
    this.controls = new ChartControls(() => {
      this.draw();
      this.onDraw();
    });
    this.charts = CHARTS.map((spec) => {
      const first = metricOf(metricsOf(spec)[0]);
      const chart = new Chart(spec.title ?? first.label, spec.unit ?? first.unit, this.open);
      chart.explain(metricsOf(spec));
      return { spec, chart };
    });
    for (const { spec, chart } of this.charts) chart.element.hidden = Boolean(spec.optional);
    this.more = h("div", { class: "chart-grid" });
    this.moreBox = h(
      "details",
      { class: "more more-charts", hidden: true, ontoggle: () => this.drawMore() },
      h("summary", { text: "More metrics" }),
      this.more,
    );
    /** @type {Map<string, Chart>} */
    this.extra = new Map();
    this.element = h(
      "div",
      {},
      this.controls.element,
      h(
        "div",
        { class: "chart-grid" },
        this.charts.map((c) => c.chart.element),
      ),
      this.moreBox,
    );
  }

  /** Fetches the steps that are new; true where there were any. */
  async refresh() {
    const [steps, evaluations] = await Promise.all([
      get(`runs/${this.run}/steps`, { after: this.last }),
      get(`runs/${this.run}/evaluations`),
    ]);
    const fresh = steps.columns.step ?? [];
    const print = JSON.stringify(evaluations);
    if (!fresh.length && print === this.print) return false;
    this.print = print;
    this.scores = evaluations.items;
    this.append(steps.columns, fresh.length);
    for (const [name, count] of Object.entries(steps.not_finite))
      this.notFinite[name] = (this.notFinite[name] ?? 0) + count;
    if (fresh.length) this.last = fresh.at(-1);
    this.draw();
    return true;
  }

  get steps() {
    return /** @type {number[]} */ (this.columns.step);
  }

  /** Forgets everything: a resumed run begins again at an earlier step. */
  reset() {
    this.columns = { step: [] };
    this.notFinite = {};
    this.last = -1;
    this.print = "";
  }

  /** @param {StepColumns} columns @param {number} count */
  append(columns, count) {
    const before = this.columns.step.length;
    for (const name of new Set([...Object.keys(this.columns), ...Object.keys(columns)])) {
      const old = this.columns[name] ?? new Array(before).fill(null);
      this.columns[name] = old.concat(columns[name] ?? new Array(count).fill(null));
    }
  }

  draw() {
    const step = this.steps;
    for (const { spec, chart } of this.charts) {
      const { lines = [], scale = 1 } = spec;
      if (spec.optional) chart.element.hidden = !lines.some(([name]) => name in this.columns);
      if (chart.element.hidden) continue;
      if (spec.score) this.drawScore(chart);
      else if (spec.phases) this.drawPhases(chart);
      else {
        chart.draw(
          lines.map(([name, label]) => this.line(label, step, scaled(this.columns[name], scale))),
          { ...this.layout(spec.share ? SHARE : {}, metricsOf(spec)), ...this.absence(lines) },
        );
        chart.now.textContent = lines
          .map(([name]) => lastOf(scaled(this.columns[name], scale), spec))
          .filter(Boolean)
          .join("  ·  ");
      }
    }
    const names = Object.keys(this.columns).filter((n) => !KNOWN.has(n) && !n.startsWith("seconds_"));
    this.names = names;
    this.moreBox.hidden = names.length === 0;
    this.drawMore();
  }

  /** @param {string} name @param {number[]} x @param {(number | null)[]} y @returns {Trace} */
  line(name, x, y) {
    const { weight } = this.controls;
    return { name, x, y, ...(weight ? { smooth: smoothed(y, weight) } : {}) };
  }

  /**
   * The frame of a chart of these metrics under what is chosen for all.
   * @param {ChartLayout} layout @param {string[]} metrics @returns {ChartLayout}
   */
  layout(layout, metrics) {
    const { log } = this.controls;
    const notFinite = metrics.reduce((sum, name) => sum + (this.notFinite[name] ?? 0), 0);
    const { range, ...yaxis } = layout.yaxis ?? {};
    const axis = log ? { ...yaxis, type: "log" } : { ...yaxis, ...(range ? { range } : {}) };
    return { ...layout, notFinite, uirevision: log ? "log" : "kept", yaxis: axis };
  }

  /** Why a chart of the teacher's distribution is empty. @param {[string, string][]} lines */
  absence(lines) {
    if (!lines.some(([name]) => name === "reverse_kl") || "log_ratio" in this.columns) return {};
    return { absent: "Not measured: this objective uses no teacher" };
  }

  /** @param {string} name */
  add(name) {
    const { label, unit } = metricOf(name);
    const chart = new Chart(plain(label, 60), unit, this.open);
    chart.explain([name]);
    this.extra.set(name, chart);
    this.more.append(chart.element);
    return chart;
  }

  drawMore() {
    if (!this.moreBox.open) return;
    for (const name of this.names) {
      const chart = this.extra.get(name) ?? this.add(name);
      const line = this.line(metricOf(name).label, this.steps, this.columns[name]);
      chart.draw([line], this.layout({ yaxis: { rangemode: "normal" } }, [name]));
      chart.now.textContent = lastOf(this.columns[name]);
    }
  }

  /** @param {Chart} chart */
  drawScore(chart) {
    /** @type {Map<string, {name: string, x: number[], y: number[], error_y: (number | null)[]}>} */
    const suites = new Map();
    for (const item of this.scores.filter((s) => s.metric === "pass@1")) {
      const line = suites.get(item.suite) ?? { name: item.suite, x: [], y: [], error_y: [] };
      suites.set(item.suite, line);
      line.x.push(item.step);
      line.y.push(item.value);
      line.error_y.push(item.standard_error);
    }
    const lines = [...suites.values()];
    const weight = this.controls.weight;
    const drawn = lines.map((l) => (weight ? { ...l, smooth: smoothed(l.y, weight) } : l));
    const teachers = teacherScores(this.scores, "pass@1");
    const frame = teachers.size ? ROOMY : SHARE;
    const note = countsText(this.counts);
    chart.draw(drawn, { ...this.layout(frame, []), shapes: teacherLevels(teachers, "pass@1"), note });
    chart.now.textContent = lines.map((l) => percent(l.y.at(-1))).join("  ·  ");
  }

  /** @param {Chart} chart */
  drawPhases(chart) {
    const lines = PHASES.filter((p) => this.columns[`seconds_${p}`]).map((p) => ({
      name: p,
      x: this.steps,
      y: this.columns[`seconds_${p}`],
      stackgroup: "time",
    }));
    const { weight, log } = this.controls;
    const beside = this.columns[BESIDE];
    const besides = beside ? [{ name: "writing, beside", x: this.steps, y: beside }] : [];
    const note = weight || log ? "Stacked, so neither smoothed nor logarithmic" : "";
    chart.draw([...lines, ...besides], { note });
    const total = lines.reduce((/** @type {number} */ sum, l) => sum + (l.y.at(-1) ?? 0), 0);
    chart.now.textContent = lines.length ? duration(total) : "";
  }

  /** Mean seconds of the newest steps, for the time that is left. */
  secondsPerStep() {
    const lists = PHASES.map((p) => this.columns[`seconds_${p}`] ?? []);
    const count = Math.min(10, this.columns.step.length);
    if (!count) return null;
    const recent = lists.map((l) =>
      l.slice(-count).reduce((/** @type {number} */ sum, v) => sum + (v ?? 0), 0),
    );
    return recent.reduce((a, b) => a + b, 0) / count;
  }

  tokensPerSecond() {
    const each = this.secondsPerStep();
    const tokens = (this.columns.tokens ?? []).slice(-10).map(Number);
    return each ? `${short(tokens.reduce((a, b) => a + b, 0) / tokens.length / each)}/s` : "";
  }
}

/** @param {(number | null)[] | undefined} values @param {number} scale */
function scaled(values = [], scale) {
  return scale === 1 ? values : values.map((v) => (v === null ? null : v * scale));
}

const SHARE = { yaxis: { range: [0, 1.02], tickformat: "~%" } };
const ROOMY = { yaxis: { ...SHARE.yaxis, range: [0, 1.18] } }; // for the text of a line near 100%

/** @param {(number | null)[] | undefined} values @param {{share?: boolean, unit?: string}} [options] */
function lastOf(values, { share, unit } = {}) {
  const value = (values ?? []).findLast((v) => v !== null && v !== undefined);
  if (value === undefined) return "";
  if (share) return percent(value);
  return unit?.startsWith("nats") ? nats(value) : number(value);
}
