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
interface TokenText {
  t?: string;
  b?: string;
  s?: number | boolean;
}
type TokenTexts = Record<number, TokenText>;

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
  tab: string;
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
  history?: "push" | "replace" | "none";
  other?: string | null;
}

/** A panel beside the text; it is told of the state while its tab is open. */
interface Panel {
  element: HTMLElement;
  follows: (keyof ViewState)[];
  update(snapshot: RolloutView): void;
  closed?(): void;
}
