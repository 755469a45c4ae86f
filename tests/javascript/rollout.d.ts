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

/** A panel beside the text: shows a rollout, then the token that is looked at. */
interface TokenPanel {
  element: HTMLElement;
  show: (rollout: Rollout) => void;
  token: (index: number, pinned?: boolean) => void;
}
