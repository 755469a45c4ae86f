// What the token view works with: an opened rollout, its cells, and how they are tinted.
// Global, so that the scripts name these types in JSDoc without importing them.

type FloatColumn = Float32Array;
type IntColumn = Int32Array | Uint32Array | Uint16Array | Uint8Array | Int16Array | Int8Array;
type NumberList = ArrayLike<number> & Iterable<number>;

/** Columns over the completion's tokens, by name; those that are not stored or not fetched are missing. */
interface Columns {
  completion_ids: IntColumn;
  prompt_ids: IntColumn;
  sampler_logprobs: FloatColumn;
  student_logprobs: FloatColumn;
  teacher_logprobs: FloatColumn;
  reverse_kl: FloatColumn;
  student_entropy: FloatColumn;
  teacher_entropy: FloatColumn;
  advantages: FloatColumn;
  teacher_rank: IntColumn;
  mask: Uint8Array;
  [name: string]: any;
}

/** A token's text as the server sends it: text, or bytes in hexadecimal; whether it is special. */
interface TokenData {
  t?: string;
  b?: string;
  s?: number | boolean;
}
type TokenTexts = Record<number, TokenData>;

/** A drawn token; see Cell in rollout/text/glyphs.js. */
interface DrawnCell {
  raw: string;
  kind: string;
  lines: string[];
  widths: number[];
  newline: boolean;
  lead: boolean;
  trail: boolean;
  bytes?: string;
  whole?: string;
  number?: number;
}

/** An opened rollout: its description, its tokens, its columns. Frozen. */
interface Rollout {
  readonly meta: RolloutMeta;
  readonly n: number;
  readonly columns: Readonly<Columns>;
  readonly cells: DrawnCell[];
  readonly promptCells: DrawnCell[];
  readonly promptIds: IntColumn;
  readonly timings?: Readonly<{ fetch: number; decode: number; bytes: number }>;
}

/** A quantity that tokens can be tinted by. */
interface Metric {
  key: string;
  label: string;
  /** Columns that `of` reads. */
  needs: string[];
  /** Name of its maximum over the run. */
  run?: string;
  means: string;
  unit?: string;
  signed?: boolean;
  /** Sign that is drawn in orange. */
  warm?: 1 | -1;
  /** Drawn as log(1 + value). */
  log?: boolean;
  /** 0 or 1. */
  flag?: boolean;
  /** The metric of the list whose difference this is. */
  base?: Metric;
  /** The loss lab's own. */
  lab?: boolean;
  /** Weight of each token in the loss, where it is not the record's own mask. */
  weights?: NumberList;
  of: (columns: Readonly<Columns>) => NumberList;
}

/** What the visitor chose for the scale. `max` 0: the run's, or the rollout's own if `own`. */
interface ScaleChoice {
  max: number;
  gamma: number;
  own: boolean;
}

/** Levels of the palette by token, and on which side of 0 a signed metric is (0: sequential). */
interface Tints {
  levels: Uint8Array;
  signs: Int8Array;
  values: NumberList;
  top: number;
  metric: Metric;
}

/** An alternative at a token, with both models' log-probabilities (null: not stored). */
interface Alternative {
  id: number;
  text: string;
  special?: boolean;
  student_logprob: number | null;
  teacher_logprob: number | null;
}

/** Both models' alternatives at a position, likeliest first; null where none are stored. */
interface Alternatives {
  position: number;
  student: Alternative[] | null;
  teacher: Alternative[] | null;
  student_tail?: number | null;
  teacher_tail?: number | null;
}

/** The other rollout of a comparison, as the address names it. */
interface Compared {
  readonly id: string;
  /** null while it cannot be compared; `problem` says why. */
  readonly other: Rollout | null;
  /** Tokens from the start that both completions share. */
  readonly common: number;
  readonly problem: string;
}

/** A search in the completion: the [first, last] token of each match, and which one is shown (−1: none). */
interface TokenSearch {
  readonly query: string;
  readonly matches: [number, number][];
  readonly tokens: Set<number>;
  readonly current: number;
}

/** What the token page shows; every snapshot is frozen (rollout/state.js). */
/** Whose prompt stands above the completion. */
type PromptReader = "student" | "teacher";

interface ViewState {
  rollout: Rollout | null;
  compared: Compared | null;
  loadingOther: boolean;
  /** Tokens, −1 for none: the pinned one, and the one under the pointer. */
  pinned: number;
  pointed: number;
  /** The key that the visitor chose, and the metric of the list that it stands for in this rollout. */
  metricKey: string;
  chosen: Metric;
  /** A panel's own metric, and what the text is tinted by: that, the chosen one or its difference. */
  panelMetric: Metric | null;
  metric: Metric;
  max: number;
  gamma: number;
  own: boolean;
  palette: string;
  underline: boolean;
  tints: Tints | null;
  search: TokenSearch;
  /** Those of the open rollout. */
  marks: readonly RolloutMark[];
  tab: string;
  reader: PromptReader;
}

/** A snapshot in which a rollout is shown. */
type RolloutView = Readonly<ViewState> & { readonly rollout: Rollout };

/** The state of the token page for what depends on it. */
interface ViewStore {
  get(): Readonly<ViewState>;
  patch(changes: Partial<ViewState>): void;
  subscribe(
    fields: (keyof ViewState)[],
    action: (now: Readonly<ViewState>, before: Readonly<ViewState>) => void,
  ): () => void;
}

/** What opening a rollout may say besides its id (rollout/opener.js). */
interface OpenOptions {
  pos?: number;
  history?: HistoryChange;
  other?: string | null;
}

/** A panel beside the text; it is told of the state while its tab is open. */
interface Panel {
  element: HTMLElement;
  follows: (keyof ViewState)[];
  update(snapshot: RolloutView): void;
  closed?(): void;
}

type TextView = import("../../app/static/rollout/text/tokens.js").TokenText;

/** The list that a rollout was opened from: its filters, and the rollout's index there. */
interface ListOrigin {
  filters: Record<string, string>;
  at: number | null;
}

interface NavigationActions {
  pin: (index: number) => unknown;
  open: (id: string | null, options?: OpenOptions) => unknown;
  /** Rank of the token among the worst of the run. */
  rankOfRun: (rank: number, total: number) => unknown;
}

interface OpeningActions {
  start: () => unknown;
  /** Drawn; `isNewest()` while nothing else is opened. */
  shown: (rollout: Rollout, history: HistoryChange, isNewest: () => boolean) => unknown;
  /** On the screen, so many ms after the start. */
  painted: (rollout: Rollout, ms: number) => unknown;
  idle: () => unknown;
  compared: () => unknown;
  failed: (error: ShownError, retry?: () => unknown) => unknown;
}

interface ComparisonActions {
  pin: (index: number) => unknown;
  open: (id: string | null, options?: OpenOptions) => unknown;
  end: () => unknown;
}

interface OverTimeActions {
  open: (id: string | null, options?: OpenOptions) => Promise<unknown>;
  compare: (id: string | null) => unknown;
  settled: () => unknown;
}

interface TextActions {
  hover: (index: number | null) => unknown;
  pick: (index: number | null) => unknown;
  /** First and last line in view. */
  view: (first: number, last: number) => unknown;
}

/** Texts of tokens that came with an imported record. */
interface OwnTexts {
  prompt?: string[];
  completion?: string[];
}

interface PayloadColumn {
  name: string;
  dtype: string;
  offset: number;
  length: number;
}

/** A sequence of cells broken into lines; pieces and lines by number (rollout/text/layout.js). */
interface TextLayout {
  /** The token of each piece; the prompt's come first. */
  token: Int32Array;
  /** Text of the pieces that are not their whole token. */
  text: Map<number, string>;
  lineStart: Int32Array;
  lineOf: Int32Array;
  lines: number;
  promptLines: number;
}

/** A block of thinking or of a tool call, by its first and last token. */
interface TokenBlock {
  first: number;
  last: number;
  kind: number;
  label: string;
}

interface Turns {
  /** Token → role of the turn that it opens. */
  starts: Map<number, string>;
  blocks: TokenBlock[];
  kinds: Uint8Array;
  /** 1 where a line starts. */
  breaks: Uint8Array;
}

interface ProfileBins {
  /** The value of greatest size in each bin, and its level. */
  high: Float32Array;
  level: Uint8Array;
}

/** An alternative in the table: probabilities of student and teacher, and its part of the KL. */
interface AlternativeRow extends Alternative {
  p: number | null;
  q: number | null;
  share: number | null;
  sampled: boolean;
  /** The written token, listed by neither model. */
  outside: boolean;
}

/** A token that the panel shows. */
interface ShownToken {
  rollout: Rollout;
  metric: Metric;
  index: number;
  pinned: boolean;
}

/** The teacher's first choice at a token: log-probabilities of student and teacher; `same`: it was sampled. */
interface TopChoice {
  text: string;
  p: Value;
  q: Value;
  same: boolean;
}

/** What is done with the address: a new entry of the history, another one in its place, or nothing. */
type HistoryChange = "push" | "replace" | "none";

/** The value of a column at a token; undefined where it is not stored. */
type FigureAt = (name: string) => number | undefined;

interface ToolbarChoices {
  max: number;
  gamma: number;
  own: boolean;
  palette: string;
  underline: boolean;
}

interface ToolbarActions {
  metric: (key: string) => unknown;
  scale: (change: Partial<ScaleChoice>) => unknown;
  palette: (name: string) => unknown;
  underline: (on: boolean) => unknown;
  plain: (on: boolean) => unknown;
  search: (query: string) => unknown;
  next: (step: number) => unknown;
  help: () => unknown;
}

/** Another rollout of the same prompt. */
interface RelatedItem extends RolloutMeta {
  same_completion: boolean;
}

interface Related extends Page<RelatedItem> {
  /** Of other runs. */
  others: Page<RelatedItem>;
}

interface StepsOptions {
  here: string;
  compared: string | null | undefined;
  token: { text: string; metric: Metric; valueAt: (id: string) => string } | null;
  go: (index: number) => unknown;
  compare: (id: string | null) => unknown;
}

interface RelatedOptions {
  across: boolean;
  more: number;
  here: string;
  compared: string | null | undefined;
  open: (id: string) => unknown;
  compare: (id: string | null) => unknown;
}

/** What another token at a position led to. */
interface Branch extends RolloutItem {
  position: number;
}

interface LabObjective {
  name: string;
  label: string;
  formula: string;
  [more: string]: unknown;
}

interface LabParameter {
  name: string;
  label: string;
  unit: string;
  objectives: string[];
  min: number;
  max: number;
  step: number;
}

/** Name, label, unit, objectives or masks that have it (null: all), limits. */
type LabField = [name: string, label: string, unit: string, of: string[] | null, limits: Props];

interface LossBounds {
  low: number;
  high: number | null;
}

/** A rollout's stored tokens under another objective. */
interface LabAnswer {
  objective: { name: string } & Record<string, any>;
  trained: { objective: { name: string }; loss: LossBounds | null } | null;
  loss: LossBounds | null;
  low: (number | null)[];
  high: (number | null)[];
  weights: number[];
  clipped: number[];
  exact: boolean;
  top_k: number;
  tokens: number;
  kept: number;
  clipped_kept: number;
  maybe_clipped_kept: number;
  kl_share: number | null;
  notes: string[];
  unavailable: Record<string, string>;
  temperature: number;
}

/** A token under one objective. */
interface LabToken {
  objective: string;
  reason: string;
  exact: boolean;
  low: number | null;
  high: number | null;
}

interface LabStep {
  step: number;
  kept: number;
  tokens: number;
  logged: number | null;
  trained: LossBounds | null;
  loss: LossBounds | null;
}

interface LabRun {
  items: LabStep[];
  exact: boolean;
  every: number;
}
