// The mean curve of every arm over what it cost, with a band over its seeds and the target.

import { lineOf, lookOf } from "../compare/chart.js";
import { AXES } from "../compare/controls.js";
import { levelLine } from "../lib/charts/reference_lines.js";
import { metricOf } from "../lib/charts/run_metrics.js";
import { Chart } from "../lib/charts.js";
import { fill, h, select } from "../lib/dom.js";
import { plain } from "../lib/format.js";
import { isDark, onTheme } from "../lib/theme.js";
import { bare, figure, nameOf } from "./figures.js";

const HEIGHT = 340;

export class ExperimentChart {
  /** @type {Experiment | undefined} */
  experiment;
  /** @type {string} */
  print;

  /**
   * `x` is the axis at first; `choose(x)` is called with another one.
   * @param {string} x @param {(x: string) => unknown} choose
   */
  constructor(x, choose) {
    this.x = AXES.some(([name]) => name === x) ? x : "step";
    this.chart = new Chart("Mean over seeds", "");
    this.element = this.chart.element;
    this.element.classList.add("exp-chart");
    this.element.dataset.chart = "experiment";
    /** @param {string} chosen */
    const pick = (chosen) => {
      this.x = chosen;
      choose(chosen);
      this.draw();
    };
    this.axis = select(AXES, this.x, pick, { id: "exp-x", "aria-label": "Over" });
    this.legend = h("ul", { class: "exp-legend", "aria-label": "Arms" });
    this.chart.caption.append(
      h("label", { class: "control" }, h("span", { class: "muted", text: "Over" }), this.axis),
    );
    this.chart.plot.before(this.legend);
    onTheme(() => this.draw());
  }

  /** @param {Experiment} experiment */
  show(experiment) {
    const print = JSON.stringify([experiment.target, experiment.arms.map((arm) => [arm.label, arm.curve])]);
    if (print === this.print) return;
    this.print = print;
    this.experiment = experiment;
    fill(
      this.legend,
      experiment.arms.map((arm, index) => h("li", {}, lineOf(index), nameOf(arm))),
    );
    this.draw();
  }

  draw() {
    if (!this.experiment) return;
    const { metric } = this.experiment;
    const share = metricOf(metric).share;
    const most = Math.max(0, ...this.experiment.arms.flatMap((arm) => arm.curve?.n ?? []));
    const band = most > 1 ? ", band: lowest to highest seed" : "";
    this.chart.unit.textContent = `${plain(metric, 60)}${band}`;
    const traces = this.experiment.arms.flatMap((arm, index) => tracesOf(arm, index, this.x, metric));
    const fallback = [{ name: "", x: [], y: [] }];
    this.chart.draw(traces.length ? traces : fallback, {
      height: HEIGHT,
      uirevision: this.x,
      xaxis: {
        tickformat: this.x === "step" ? "d" : "~s",
        dtick: null,
        hoverformat: this.x === "step" ? ".1~f" : ".3~s",
      },
      yaxis: { rangemode: "normal", tickformat: share ? ".0%" : "~g" },
      shapes: targetShapes(this.experiment.target, metric),
    });
  }
}

/** @param {Arm} arm @param {number} index @param {string} x @param {string} metric */
function tracesOf(arm, index, x, metric) {
  const curve = arm.curve;
  if (!curve?.y?.length) return [];
  const { color, dash, symbol } = lookOf(index);
  const name = nameOf(arm).replace(/[<>&%{}$]/g, "·"); // the chart library reads a few tags and fields
  const at = curve[x];
  const common = { x: at, line: { color, dash, width: 1.6 }, showlegend: false };
  const edge = { ...common, mode: "lines", line: { width: 0, color }, hoverinfo: "skip" };
  const wide = curve.n.some((n) => n > 1);
  const band = wide
    ? [
        { ...edge, name: `${name} low`, y: curve.low },
        { ...edge, name: `${name} high`, y: curve.high, fill: "tonexty", fillcolor: `${color}2b` },
      ]
    : [];
  const ranges = curve.y.map((_, i) =>
    curve.n[i] > 1
      ? ` (${bare(curve.low[i], metric)}–${bare(curve.high[i], metric)}, ${curve.n[i]} seeds)`
      : wide
        ? " (1 seed)"
        : "",
  );
  const mean = {
    ...common,
    name,
    y: curve.y,
    customdata: ranges,
    mode: at.length <= 60 ? "lines+markers" : "lines",
    marker: { color, symbol, size: 6 },
    meta: { arm: arm.name },
    hovertemplate: `%{y:${metricOf(metric).share ? ".1%" : ".4~g"}}%{customdata}<extra>${name}</extra>`,
  };
  return [...band, mean];
}

/**
 * The mean of the seeds' targets as a line; where they differ, from the lowest to the highest as a strip.
 * @param {ExperimentTarget | null} target @param {string} metric
 */
function targetShapes(target, metric) {
  const values = (target?.values ?? []).map((one) => one.value).filter((value) => value !== null);
  if (!values.length) return [];
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const line = levelLine(mean, `target ${figure(mean, metric)}`);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (high === low) return [line];
  const fillcolor = isDark() ? "rgba(160, 165, 173, 0.14)" : "rgba(93, 96, 102, 0.1)";
  return [
    {
      type: "rect",
      xref: "paper",
      x0: 0,
      x1: 1,
      y0: low,
      y1: high,
      line: { width: 0 },
      fillcolor,
      layer: "below",
    },
    line,
  ];
}
