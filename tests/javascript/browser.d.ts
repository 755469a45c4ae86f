// What the scripts load beside themselves.

interface Window {
  /** plotly.js, once its script is loaded; it has no types of its own here. */
  Plotly?: any;
}

/** A line of a chart, as plotly's traces, without colours. */
interface Trace {
  name: string;
  x: number[];
  y: (number | null)[];
  error_y?: (number | null)[];
  stackgroup?: string;
  [option: string]: unknown;
}

/** What differs from a chart's usual frame. */
interface ChartLayout {
  height?: number;
  ticks?: number;
  uirevision?: string;
  xaxis?: Record<string, unknown>;
  yaxis?: Record<string, unknown>;
  shapes?: Record<string, unknown>[];
}
