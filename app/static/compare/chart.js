// The two charts: a line a run, or a mean with its band a group of seeds.

import { levelLine, teacherText } from "../lib/charts/reference_lines.js";
import { metricOf } from "../lib/charts/run_metrics.js";
import { Chart } from "../lib/charts.js";
import { h } from "../lib/dom.js";
import { number, percent, plain } from "../lib/format.js";
import { isDark, onTheme } from "../lib/theme.js";
import { axisLabel } from "./controls.js";

// Six colours, each as a whole and as a dashed line: twelve runs that differ without colour too.
const LIGHT = ["#d4570a", "#1f5c9e", "#5d6066", "#8a6d00", "#5b4b9a", "#2b7a6b"];
const DARK = ["#f9923c", "#82b5f0", "#a0a5ad", "#d8bd55", "#b3a5ea", "#6cc3b2"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x"];
const HEIGHT = 340;

/** @param {number} index */
export function lookOf(index) {
  const colours = isDark() ? DARK : LIGHT;
  return { color: colours[index % 6], dash: index < 6 ? "solid" : "dash", symbol: SYMBOLS[index % 6] };
}

/** @param {number} index */
export function letterOf(index) {
  return String.fromCharCode(65 + index);
}

/** A short line in the colour and dash of a index, as it is drawn. @param {number} index */
export function lineOf(index) {
  return h("span", { class: "cmp-line", data: { series: index % 6, dash: index < 6 ? "solid" : "dash" } });
}

/** The line with the run's letter. @param {number} index */
export function swatch(index) {
  return h(
    "span",
    { class: "cmp-swatch" },
    lineOf(index),
    h("span", { class: "num", text: letterOf(index) }),
  );
}

/**
 * A name for the chart library, which reads a few tags and fields in it: without their signs.
 * @param {number} index @param {string} name
 */
function labelFor(index, name) {
  return `${letterOf(index)} ${plain(name, 28).replace(/[<>&%{}$]/g, "·")}`;
}

export class CompareCharts {
  /** @type {[Comparison, CompareState] | undefined} */
  last;

  constructor() {
    /** @type {Map<string, Chart>} */
    this.charts = new Map();
    this.element = h("div", { class: "cmp-charts" });
    onTheme(() => this.last && this.draw(...this.last));
  }

  /** @param {Comparison} comparison @param {CompareState} state */
  draw(comparison, state) {
    this.last = [comparison, state];
    const kept = new Set();
    comparison.charts.forEach((one, number) => {
      const key = String(number);
      kept.add(key);
      const chart = this.charts.get(key) ?? this.add(key);
      this.drawOne(chart, one, comparison, state);
    });
    for (const [key, chart] of this.charts) {
      if (kept.has(key)) continue;
      chart.element.remove();
      this.charts.delete(key);
    }
  }

  /** @param {string} key */
  add(key) {
    const chart = new Chart("", "");
    this.charts.set(key, chart);
    this.element.append(chart.element);
    return chart;
  }

  /** @param {Chart} chart @param {ComparedChart} one @param {Comparison} comparison @param {CompareState} state */
  drawOne(chart, one, comparison, state) {
    const { label, unit, share } = metricOf(one.metric);
    chart.element.dataset.chart = one.metric;
    chart.name(label, [unit, `over ${axisLabel(comparison.x).toLowerCase()}`].filter(Boolean).join(" · "));
    chart.explain([one.metric]);
    const traces =
      state.group === "1"
        ? groupTraces(one, comparison)
        : runTraces(one, comparison, Number(state.smooth) > 0);
    /** @param {string} on */
    const type = (on) => (on === "1" ? "log" : "linear");
    const target = one.metric === comparison.reach.metric ? comparison.reach.target : null;
    chart.draw(traces, {
      height: HEIGHT,
      uirevision: [one.metric, comparison.x, state.logx, state.logy].join(" "),
      xaxis: { type: type(state.logx), tickformat: comparison.x === "step" ? "d" : "~s", dtick: null },
      yaxis: { type: type(state.logy), rangemode: "normal", tickformat: share ? "~%" : "~g" },
      notFinite: one.curves.reduce((sum, curve) => sum + curve.not_finite, 0),
      shapes: [
        ...(target === null ? [] : [levelLine(target, share ? percent(target, 1) : number(target))]),
        ...teacherLines(one),
      ],
    });
  }
}

/**
 * What the teachers themselves reach; one line for runs that measured the same.
 * @param {ComparedChart} one
 */
function teacherLines({ curves, metric }) {
  const texts = new Map();
  for (const [index, { teacher }] of curves.entries()) {
    if (!teacher || teacher.value === null) continue;
    const key = `${teacher.value} ${teacher.n}`;
    const of = [...(texts.get(key)?.of ?? []), index];
    texts.set(key, { teacher, of });
  }
  const all = curves.every((curve) => curve.teacher);
  return [...texts.values()].map(({ teacher, of }) => {
    const whose = all && texts.size === 1 ? "" : `of ${of.map(letterOf).join(", ")}`;
    const color = of.length === 1 ? lookOf(of[0]).color : undefined;
    return levelLine(teacher.value, teacherText(teacher, metric, whose), { dash: "dash", at: "end", color });
  });
}

/** @param {ComparedChart} one @param {Comparison} comparison @param {boolean} smooth */
function runTraces(one, comparison, smooth) {
  /** @type {Trace[]} */
  const shown = [];
  one.curves.forEach((curve, index) => {
    const { color, dash, symbol } = lookOf(index);
    const name = labelFor(index, comparison.runs[index].name || curve.run);
    const few = curve.x.length <= 60;
    const common = {
      x: curve.x,
      line: { color, dash, width: 1.6 },
      mode: few ? "lines+markers" : "lines",
      marker: { color, symbol, size: 6 },
      connectgaps: true,
      showlegend: false,
    };
    const hovertemplate = `%{y:.4~g}<extra>${name}</extra>`;
    shown.push({
      ...common,
      name,
      y: curve.y,
      ...(smooth ? { smooth: curve.smooth } : {}),
      hovertemplate,
      meta: { run: curve.run },
    });
  });
  return shown;
}

/** @param {ComparedChart} one @param {Comparison} comparison */
function groupTraces(one, comparison) {
  return one.groups.flatMap((group) => {
    const index = comparison.runs.findIndex((run) => run.id === group.runs[0]);
    const { color, dash, symbol } = lookOf(index);
    const name = labelFor(index, comparison.runs[index].name || group.runs[0]);
    const edge = {
      x: group.x,
      mode: "lines",
      line: { width: 0, color },
      hoverinfo: "skip",
      showlegend: false,
    };
    const band =
      group.runs.length > 1
        ? [
            { ...edge, name: `${name} low`, y: group.low },
            { ...edge, name: `${name} high`, y: group.high, fill: "tonexty", fillcolor: `${color}33` },
          ]
        : [];
    const mean = {
      x: group.x,
      y: group.y,
      name,
      customdata: group.n,
      showlegend: false,
      mode: group.x.length <= 60 ? "lines+markers" : "lines",
      line: { color, dash, width: 1.6 },
      marker: { color, symbol, size: 6 },
      meta: { run: group.runs[0] },
      hovertemplate: `%{y:.4~g} mean of %{customdata}<extra>${name}</extra>`,
    };
    return [...band, mean];
  });
}
