// Live charts by plotly.js, updated in place: zoom and hidden legend entries stay.
import { constantRange, finite } from "./charts/curves.js";
import { metricOf } from "./charts/run_metrics.js";
import { button, fill, h } from "./dom.js";
import { integer } from "./format.js";
import { isDark, onTheme } from "./theme.js";

/** @type {Promise<any> | undefined} */
let plotly;

/** plotly.js, loaded with the first chart. */
function load() {
  plotly ??= new Promise((resolve, reject) => {
    const script = h("script", { src: "static/plotly.min.js" });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("The chart library did not load"));
    document.head.append(script);
  });
  return plotly;
}

const LIGHT = {
  ink: "#1b1c1f",
  muted: "#5d6066",
  line: "#e2e2dd",
  surface: "#ffffff",
  series: ["#d4570a", "#1f5c9e", "#5d6066", "#8a6d00", "#5b4b9a", "#2b7a6b"],
  stack: ["#1f5c9e", "#6a9bd0", "#a9c8e6", "#7d8087", "#c4c6c2"],
};
const DARK = {
  ink: "#e7e8ea",
  muted: "#a0a5ad",
  line: "#2d3035",
  surface: "#1a1c1f",
  series: ["#f9923c", "#82b5f0", "#a0a5ad", "#d8bd55", "#b3a5ea", "#6cc3b2"],
  stack: ["#82b5f0", "#4d7db3", "#2f5177", "#8b9097", "#4a4e55"],
};

export class Chart {
  /**
   * `click(step)` is called with the step of a clicked point.
   * @param {string} title @param {string} unit @param {(step: number) => unknown} [click]
   */
  constructor(title, unit, click) {
    this.click = click;
    /** @type {any} an element that plotly.js extends */
    this.plot = h("div", { class: "plot" });
    this.drawn = false;
    /** @type {Trace[]} */
    this.traces = [];
    /** @type {ChartLayout} */
    this.layout = {};
    this.empty = h("div", { class: "plot-empty muted", text: "No data yet" });
    this.now = h("span", { class: "num plot-now" });
    this.heading = h("h2", { text: title });
    this.unit = h("span", { class: "muted", text: unit });
    this.helped = h("div", { class: "caption chart-help", hidden: true });
    this.help = button("?", () => this.toggleHelp(), { class: "btn small quiet help-mark", hidden: true });
    this.note = h("p", { class: "caption plot-note" });
    this.reset = button("Reset zoom", () => this.unzoom(), { class: "btn small plot-reset", hidden: true });
    this.caption = h(
      "figcaption",
      {},
      this.heading,
      this.unit,
      this.help,
      h("span", { class: "spacer" }),
      this.reset,
      this.now,
    );
    this.element = h(
      "figure",
      { class: "panel chart", "data-chart": title },
      this.caption,
      this.helped,
      this.plot,
      this.empty,
      this.note,
    );
    onTheme(() => this.drawn && this.draw(this.traces, this.layout));
  }

  /** @param {string} title @param {string} unit */
  name(title, unit) {
    this.heading.textContent = title;
    this.unit.textContent = unit;
  }

  /** Offers a sentence for each of these metrics, behind the "?". @param {string[]} names */
  explain(names) {
    const entries = names.map(metricOf).filter((entry) => entry.help);
    this.help.hidden = entries.length === 0;
    if (this.help.hidden) this.helped.hidden = true;
    this.help.title = entries.map((entry) => `${entry.label}: ${entry.help}`).join("\n");
    this.help.setAttribute("aria-label", `About ${this.heading.textContent}`);
    this.help.setAttribute("aria-expanded", String(!this.helped.hidden));
    fill(
      this.helped,
      entries.map((entry) => h("p", {}, h("strong", { text: entry.label }), ` ${entry.help}`)),
    );
  }

  toggleHelp() {
    this.helped.hidden = !this.helped.hidden;
    this.help.setAttribute("aria-expanded", String(!this.helped.hidden));
  }

  /** @param {Trace[]} traces @param {ChartLayout} [layout] */
  async draw(traces, layout = {}) {
    this.traces = traces;
    this.layout = layout;
    const filled = traces.some((t) => t.y.some((v) => v !== null));
    this.empty.hidden = filled;
    const steps = traces.some((t) => t.x.length);
    const broken = layout.notFinite ? "Every value was NaN or infinite" : "";
    this.empty.textContent = steps ? broken || (layout.absent ?? "Not measured by this run") : "No data yet";
    this.note.textContent = filled ? noteOf(traces, layout) : "";
    if (!filled) return;
    const library = await load();
    if (this.traces !== traces) return; // newer data came while the library loaded
    const look = isDark() ? DARK : LIGHT;
    const log = layout.yaxis?.type === "log";
    const styled = traces.flatMap((t, i) =>
      withRaw(style(t, (t.stackgroup ? look.stack : look.series)[i], traces[0].x.length), log),
    );
    await library.react(
      this.plot,
      [...styled, ...unseen(traces, layout)],
      frame(look, traces.length > 1, withAxes(traces, layout)),
      CONFIG,
    );
    this.calm();
    if (this.drawn) return;
    this.drawn = true;
    this.plot.on("plotly_click", (/** @type {any} */ event) => this.click?.(event.points[0].x));
    this.plot.on("plotly_afterplot", () => this.calm());
    this.plot.on("plotly_relayout", (/** @type {object} */ change) => this.zoomed(Object.keys(change)));
    new ResizeObserver(() => this.plot.isConnected && library.Plots.resize(this.plot)).observe(this.plot);
  }

  /** The buttons over a chart are for the pointer: as tab stops there would be dozens per page. */
  calm() {
    for (const item of this.plot.querySelectorAll(".modebar-btn")) item.tabIndex = -1;
  }

  /** @param {string[]} changed */
  zoomed(changed) {
    if (changed.some((key) => key.endsWith(".autorange"))) this.reset.hidden = true;
    else if (changed.some((key) => key.includes(".range"))) this.reset.hidden = false;
  }

  unzoom() {
    this.plot.querySelector('.modebar-btn[data-val="reset"]')?.click();
    this.reset.hidden = true;
    this.element.tabIndex = -1;
    this.element.focus({ preventScroll: true });
  }
}

/**
 * A smoothed curve over the measured one, which stays, faint. `log`: without what has no logarithm.
 * @param {Record<string, any>} trace styled @param {boolean} log @returns {Record<string, any>[]}
 */
function withRaw({ smooth, ...measured }, log) {
  /** @param {(number | null)[]} y */
  const drawn = (y) => (log ? y.map((v) => (v !== null && v > 0 ? v : null)) : y);
  /** @type {Record<string, any>} */
  const trace = { ...measured, y: drawn(measured.y) };
  if (!smooth) return [trace];
  const raw = { mode: "lines", opacity: 0.3, hoverinfo: "skip", hovertemplate: "", showlegend: false };
  const { error_y, ...smoothed } = trace;
  const said = `%{y:.4~g} (as measured %{customdata:.4~g})<extra>${trace.name}</extra>`;
  const legend = trace.legendgroup ?? trace.name;
  return [
    { ...trace, ...raw, meta: null, name: `${trace.name} raw`, legendgroup: legend },
    { ...smoothed, y: drawn(smooth), customdata: trace.y, hovertemplate: said, legendgroup: legend },
  ];
}

/** Lines that are shapes count for the range of y: the library reads only points. @param {Trace[]} traces @param {ChartLayout} layout */
function unseen(traces, { shapes = [] }) {
  const levels = finite(shapes.flatMap((shape) => [shape.y0, shape.y1]));
  const x = traces.flatMap((t) => t.x)[0];
  if (!levels.length || x === undefined) return [];
  const marker = { opacity: 0, size: 1 };
  const line = { width: 0 };
  return [
    {
      x: levels.map(() => x),
      y: levels,
      mode: "markers",
      marker,
      line,
      hoverinfo: "skip",
      showlegend: false,
    },
  ];
}

/**
 * Axes that show one value, or one point, as such.
 * @param {Trace[]} traces @param {ChartLayout} layout @returns {ChartLayout}
 */
function withAxes(traces, layout) {
  const steps = finite(traces.flatMap((t) => t.x));
  const last = steps.reduce((a, b) => Math.max(a, b), 0);
  const one = steps.every((x) => x === steps[0]) && layout.xaxis?.type !== "log";
  /** @type {Record<string, unknown>} few steps: no fractions of them */
  const xaxis = one
    ? { range: [steps[0] - 1, steps[0] + 1], tickvals: [steps[0]], dtick: null }
    : last <= 6
      ? { dtick: 1 }
      : {};
  const values = finite([
    ...traces.flatMap((t) => t.y),
    ...(layout.shapes ?? []).flatMap((shape) => [shape.y0, shape.y1]),
  ]);
  const range = constantRange(values, {
    log: layout.yaxis?.type === "log",
    fromZero: (layout.yaxis?.rangemode ?? "tozero") === "tozero",
  });
  const constant = range && !traces.some((t) => t.stackgroup || t.error_y) ? { range } : {};
  return {
    ...layout,
    xaxis: { ...xaxis, ...layout.xaxis, ...(one ? { tickvals: xaxis.tickvals } : {}) },
    yaxis: { ...constant, ...logTicks(values, layout.yaxis?.type), ...layout.yaxis },
  };
}

/** Decades, or 1, 2 and 5 of each where there are few. @param {number[]} values @param {unknown} type */
function logTicks(values, type) {
  const shown = type === "log" ? values.filter((v) => v > 0).map(Math.log10) : [];
  if (!shown.length) return {};
  const span = shown.reduce((a, b) => Math.max(a, b)) - shown.reduce((a, b) => Math.min(a, b));
  if (span > 0 && span < 0.7) return {}; // less than from 1 to 5: as on a linear axis
  return { dtick: span < 2.5 ? "D2" : Math.ceil(span / 5) };
}

/** What a chart does not draw. @param {Trace[]} traces @param {ChartLayout} layout */
function noteOf(traces, layout) {
  const values = traces.filter((t) => t.hoverinfo !== "skip").flatMap((t) => t.y);
  const below = layout.yaxis?.type === "log" ? finite(values).filter((v) => v <= 0).length : 0;
  const broken = layout.notFinite ?? 0;
  /** @param {number} n @param {string} one @param {string} many */
  const count = (n, one, many) => `${integer(n)} ${n === 1 ? one : many}`;
  return [
    below && `${count(below, "value ≤ 0 is", "values ≤ 0 are")} not drawn on the log axis`,
    broken && `${count(broken, "value was", "values were")} NaN or infinite and cannot be drawn`,
    layout.note,
  ]
    .filter(Boolean)
    .join(". ");
}

const CONFIG = {
  displaylogo: false,
  responsive: false,
  plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "sendChartToCloud"],
  displayModeBar: "hover",
};

/** @param {Trace} trace @param {string} colour @param {number} points */
function style(trace, colour, points) {
  /** @type {Record<string, unknown>} */
  const rest = { ...trace };
  const common = {
    type: "scatter",
    mode: points > 60 ? "lines" : "lines+markers",
    line: { width: 1.6, color: colour },
    marker: { size: 4, color: colour },
    hovertemplate: rest.hoverinfo === "skip" ? "" : `%{y:.4~g}<extra>${rest.name}</extra>`,
  };
  if (trace.stackgroup && points === 1) {
    const { stackgroup: _, ...bar } = rest; // an area of one point is none
    return {
      ...bar,
      type: "bar",
      width: 0.5,
      marker: { color: colour },
      hovertemplate: common.hovertemplate,
    };
  }
  if (trace.stackgroup)
    Object.assign(common, { mode: "lines", fillcolor: colour, line: { width: 0, color: colour } });
  if (trace.error_y)
    rest.error_y = { type: "data", array: trace.error_y, color: colour, thickness: 1, width: 3 };
  return { ...common, ...rest };
}

/** @param {typeof LIGHT} look @param {boolean} many @param {ChartLayout} layout */
function frame(look, many, layout) {
  const axis = {
    gridcolor: look.line,
    linecolor: look.line,
    zerolinecolor: look.line,
    tickfont: { size: layout.ticks ?? 11, color: look.muted },
    automargin: true,
    nticks: 6,
  };
  return {
    height: layout.height ?? 196,
    margin: { l: 44, r: 12, t: many ? 22 : 8, b: 28 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 11, color: look.ink },
    hovermode: "x unified",
    hoverlabel: { bgcolor: look.surface, bordercolor: look.line, font: { color: look.ink, size: 12 } },
    showlegend: many,
    legend: {
      orientation: "h",
      traceorder: "normal",
      x: 0,
      yref: "container",
      y: 1,
      yanchor: "top",
      font: { size: 11, color: look.muted },
    },
    xaxis: { ...axis, tickformat: "d", ...layout.xaxis },
    yaxis: { ...axis, rangemode: "tozero", tickformat: "~g", ...layout.yaxis },
    uirevision: layout.uirevision ?? "kept",
    dragmode: "zoom",
    barmode: "stack",
    modebar: { bgcolor: look.surface, color: look.muted, activecolor: look.ink },
    shapes: layout.shapes ?? [],
  };
}
