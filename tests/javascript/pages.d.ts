// What the modules of one page hand to one another.

type Value = number | null | undefined;
type Insights = import("../../app/static/insights/insights.js").Insights;
type Chart = import("../../app/static/lib/charts.js").Chart;
type RunCharts = import("../../app/static/run/charts.js").RunCharts;

/** A column's head: text, class, title. */
type Head = readonly [text: Child, kind?: string, title?: string];

/** What the comparison's address says; "1" and "" are on and off. */
type CompareState = Record<ControlName | BoxName | "smooth" | "target" | "baseline", string>;
type ControlName = "x" | "y" | "second" | "band" | "direction";
type BoxName = "logx" | "logy" | "group" | "interpolate";

interface ExperimentActions {
  cancel: () => unknown;
  resume: () => unknown;
}

interface OfferActions {
  start: (item: ExperimentDefinition, quick: boolean, button: HTMLButtonElement) => unknown;
  toggle: (name: string) => unknown;
}

interface ResultColumn {
  metric: string;
  label: string;
}

/** Row and column in a grid of cells. */
type Spot = [row: number, column: number];

interface GridCell {
  value: number;
  label: string;
  href?: string;
}

interface GridOptions {
  label: string;
  /** Labels of the ends of rows and columns, "" for none. */
  rows: string[];
  columns: string[];
  cells: (GridCell | null)[][];
  top: number;
  /** Names of the axes. */
  down: string;
  across: string;
  brush?: ((row0: number, column0: number, row1: number, column1: number) => unknown) | null;
  log?: boolean;
}

type Config = Record<string, any>;

/** A field of the form, out of the configuration's schema. */
interface Field {
  path: string;
  group: string;
  title: string;
  help: string;
  kind: string;
  options: string[] | null;
  nullable: boolean;
  schema: SchemaNode;
  standard: unknown;
  choices?: Record<string, string> | null;
  onlyFor?: string[] | null;
  example?: unknown;
  /** Of named sections: the fields of one. */
  inner?: Field[];
}

type FieldInput = HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement;

/** A problem of a field; `rest` is where inside of it. */
interface NestedProblem {
  rest: string;
  message: string;
}

/** A section by its name, with the fields that edit it. */
interface Part {
  name: string;
  value: Config;
  title: HTMLInputElement;
  controls: Control[];
  element: HTMLElement;
  more: HTMLDetailsElement;
  hide: () => void;
}

interface Control {
  field: Field;
  input: FieldInput | HTMLButtonElement;
  element: HTMLElement;
  set: (value: any) => unknown;
  tell: (problems: NestedProblem[]) => unknown;
}

interface WorstOptions {
  filters?: HTMLElement | null;
  turn?: ((offset: number) => unknown) | null;
  clear?: (() => unknown) | null;
}

/** How the table of runs draws a column. */
interface ColumnView {
  id: string;
  label: string;
  title?: string;
  /** What the server sorts by; empty: it cannot. */
  sort: string;
  number?: boolean;
  /** High values come first when it is sorted. */
  high?: boolean;
  /** Cells that it takes; 1 where it does not say. */
  span?: number;
  cells: (run: Run) => HTMLElement[];
  /** A value of a group's summary as text. */
  text?: (value: number) => string;
}

/** A line of the table of runs, as it was drawn. */
interface TableRow {
  print: string;
  minute: number;
  element: HTMLElement;
  editor?: HTMLElement;
}

interface RunTableState {
  /** Columns that say something of these runs: `started_by`, `host`. */
  several: string[];
  ids: string[];
  sort: string;
  order: string;
  /** Runs on the pages before. */
  offset: number;
}

/** What a row of the table of runs can do. */
interface RowActions {
  chosen: Map<string, Run>;
  choose: (run: Run, on: boolean) => unknown;
  filter: (change: Record<string, string>) => unknown;
  edit: (run: Run) => unknown;
  saved: (run: Run) => unknown;
  remove: (run: Run) => unknown;
}

/** The token of a rollout with the highest reverse KL. */
interface StoryToken {
  position: number;
  kl: number;
  wrote: string;
  wanted: Alternative | null;
  id: number;
  student: number;
  teacher: number;
}

/** What the tour is told with; what a run does not have yet is null. */
interface Story {
  run: Run;
  steps: StepColumns;
  scores: Evaluation[];
  wrong: RolloutItem | null;
  after: RolloutItem | null;
  token: StoryToken | null;
  wrongTokens: Rollout | null;
  afterTokens: Rollout | null;
}

/** A model's reply in the playground, token by token. */
interface Reply {
  author: Speaker;
  text: string;
  ids: number[];
  texts: TokenTexts;
  student_logprobs: (number | null)[];
  teacher_logprobs: (number | null)[];
  reverse_kl: (number | null)[];
  /** The teacher's top choice: [id, student's log-probability, teacher's]. */
  wanted: ([number, number, number] | null)[];
  finish_reason: "stop" | "length" | null;
  /** The request that it answers, and which of its replies it is. */
  request?: string | null;
  index?: number;
  /** Restored from an address, without scores. */
  bare?: boolean;
}

type Speaker = "student" | "teacher";

interface ChatTurn {
  user: string;
  replies: Partial<Record<Speaker, Reply>>;
}

/** A line of a report's chart; null where a step has no value. */
interface ReportLine {
  name: string;
  x: (number | null)[];
  y: (number | null)[];
}

interface ReportLevel {
  value: number;
  text: string;
}

interface ReportSeries {
  name: string;
  points: [x: number, y: number][];
}

/** The decoded payload of a rollout's alternatives. */
interface TopkView {
  n: number;
  columns: Record<string, ArrayLike<number>>;
  texts: TokenTexts;
}

/** A column of a table: head and class. */
type InsightColumn = readonly [head: string, kind: string];

// A script's own JSDoc imports no types: what serves the scripts would take them for modules.
type InsightPanel = import("../../app/static/insights/panel.js").InsightPanel;
type TourStep = import("../../app/static/tour/steps.js").Step;
type ReportApi = typeof import("../../app/static/report/api.js");

type Span =
  | { kind: "text"; text: string }
  | { kind: "code"; text: string }
  | { kind: "strong"; spans: Span[] }
  | { kind: "emphasis"; spans: Span[] }
  | { kind: "link"; spans: Span[]; target: string };

/** A part of a document. */
type Block =
  | { kind: "heading"; level: number; spans: Span[] }
  | { kind: "paragraph"; spans: Span[] }
  | { kind: "code"; text: string }
  | { kind: "list"; ordered: boolean; items: Span[][] }
  | { kind: "table"; head: Span[][]; rows: Span[][][] };
