// What the scripts load beside themselves.

interface Window {
  /** plotly.js, once its script is loaded; it has no types of its own here. */
  Plotly?: any;
  /** What the newest rollout took to open, for tests and measurements. */
  __opd?: { open: Record<string, unknown> };
}

/** A line of a chart, as plotly's traces, without colours. */
interface Trace {
  name: string;
  x: number[];
  y: (number | null)[];
  error_y?: (number | null)[];
  stackgroup?: string;
  /** What is drawn over the measured values, which stay visible, faint. */
  smooth?: (number | null)[];
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
  /** How many values were not numbers when they were recorded. */
  notFinite?: number;
  note?: string;
  /** Said where steps have no value at all. */
  absent?: string;
}

/** An entry of lib/charts/metric_table.js. */
interface MetricEntry {
  label: string;
  unit: string;
  help: string;
  /** A fraction of 1, shown as a percentage. */
  share: boolean;
}

/** Attributes, properties and listeners of an element; see `h` in lib/dom.js. */
type Props = Record<string, any>;

/** What an element may hold: text, an element, nothing, or lists of these. */
type Child = Node | string | number | false | null | undefined | Child[];

/** Parameters of an address; empty values are left out. */
type Query = Record<string, string | number | boolean | null | undefined>;

/** [value, label, attributes?] */
type Option = readonly [value: string, label: string, attributes?: Props];
