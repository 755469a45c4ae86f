// Live charts by plotly.js, updated in place: zoom and hidden legend entries stay.
import { button, h } from "./dom.js";
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
    this.reset = button("Reset zoom", () => this.unzoom(), { class: "btn small plot-reset", hidden: true });
    this.caption = h(
      "figcaption",
      {},
      this.heading,
      this.unit,
      h("span", { class: "spacer" }),
      this.reset,
      this.now,
    );
    this.element = h(
      "figure",
      { class: "panel chart", "data-chart": title },
      this.caption,
      this.plot,
      this.empty,
    );
    onTheme(() => this.drawn && this.draw(this.traces, this.layout));
  }

  /** @param {string} title @param {string} unit */
  name(title, unit) {
    this.heading.textContent = title;
    this.unit.textContent = unit;
  }

  /** @param {Trace[]} traces @param {ChartLayout} [layout] */
  async draw(traces, layout = {}) {
    this.traces = traces;
    this.layout = layout;
    const filled = traces.some((t) => t.y.some((v) => v !== null));
    this.empty.hidden = filled;
    this.empty.textContent = traces.some((t) => t.x.length)
      ? "Not measured: this objective uses no teacher"
      : "No data yet";
    if (!filled) return;
    const library = await load();
    if (this.traces !== traces) return; // newer data came while the library loaded
    const look = isDark() ? DARK : LIGHT;
    const styled = traces.map((t, i) =>
      style(t, (t.stackgroup ? look.stack : look.series)[i], traces[0].x.length),
    );
    const last = Math.max(...traces.map((t) => t.x.at(-1) ?? 0)); // x ascends
    const xaxis = last <= 6 ? { dtick: 1 } : {}; // few steps: no fractions of them
    await library.react(
      this.plot,
      styled,
      frame(look, traces.length > 1, { ...layout, xaxis: { ...xaxis, ...layout.xaxis } }),
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
    shapes: layout.shapes ?? [],
  };
}
