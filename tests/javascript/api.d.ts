// JSON of the REST routes, as far as the pages read it. Times are seconds since 1970, rates are nats
// per token, shares are fractions of 1. Global, so that the scripts name these types in JSDoc.

type RunStatus = "queued" | "running" | "finished" | "failed" | "interrupted" | "cancelled";

interface Page<T> {
  items: T[];
  total: number;
}

interface FieldProblem {
  field: string;
  message: string;
  /** Of the YAML, from 1. */
  line?: number | null;
}

/** What an error box shows. */
interface ShownError {
  message: string;
  hint?: string;
  where?: string;
  kind?: string;
  problems?: FieldProblem[];
}

interface ChangedInput {
  field: string;
  text: string;
}

interface Checkpoint {
  step: number;
  path: string;
  created_at: number;
}

/** What `save` would hold. */
interface FileModel {
  step: number;
  bytes: number;
  adapter: boolean;
}

/** A request for a file. */
interface FileItem {
  id: string;
  kind: string;
  state: "queued" | "running" | "done" | "failed";
  phase: string;
  runs: string[];
  file: string;
  bytes: number | null;
  damaged: number | null;
  progress: { done: number; total: number } | null;
  error_kind: string;
  error_text: string;
  hint: string;
}

interface FilePage extends Page<FileItem> {
  model?: FileModel | null;
  free?: number;
}

interface Disk {
  files: number;
  checkpoints: number;
  other: number;
}

/** What people change on a run. */
interface RunLabels {
  version: number;
  name: string;
  notes: string;
  tags: string[];
}

/** Prompts of one evaluation: asked for, scored, and why fewer. */
interface EvaluationCount {
  suite: string;
  field: string;
  asked: number;
  used: number;
  missing: { reason: string; count: number; text: string; remedy: string }[];
}

/** A column of the table of runs: a fact, a metric or a setting. */
interface RunColumn {
  id: string;
  kind: string;
  label: string;
  unit: string;
  help: string;
  share: boolean;
  /** Which value is the best: high, low, or empty. */
  goal: string;
  /** Of the list of all columns: a setting that is not the same in all runs. */
  different?: boolean;
}

interface GroupSummary {
  n: number;
  mean: number;
  deviation: number | null;
  min: number;
  max: number;
  best: number | null;
}

/** Runs of one value, over all pages. */
interface RunGroup {
  value: unknown;
  runs: number;
  offset: number;
  columns: Record<string, GroupSummary>;
}

interface RunPage extends Page<Run> {
  columns?: RunColumn[];
  group?: RunColumn;
  groups?: RunGroup[];
}

interface Run {
  /** Of one run; null before its prompts are loaded and of runs of before. */
  evaluation_prompts?: EvaluationCount[] | null;
  /** Values of the columns that were asked for. */
  columns?: Record<string, unknown>;
  /** Index of its group. */
  group?: number;
  /** Raised by each edit of name, notes or tags. */
  version: number;
  id: string;
  name: string;
  status: RunStatus;
  source: string;
  recipe: string;
  /** The recipe that it may be called after; says where it is no longer one of it. */
  recipe_label: string;
  /** Student, teacher and prompts are the demo's. */
  bundled: boolean;
  student: string;
  teacher: string;
  objective: string;
  seed: number;
  steps: number;
  step: number;
  attempt: number;
  phase: string;
  kl: number | null;
  score: number | null;
  score_start: number | null;
  score_suite: string | null;
  created_at: number;
  started_at: number | null;
  finished_at: number | null;
  seconds: number;
  tokens: number;
  flops: number;
  bytes: number;
  disk?: Disk;
  error_kind: string;
  error_text: string;
  hint: string;
  /** Why it finished before its last step; empty where it did not. */
  end_reason: string;
  notes: string;
  tags: string[];
  cancel_mode: string | null;
  /** Names of tokens, "browser" or `user@host`; empty: nobody did, or nobody knows. */
  started_by: string;
  cancel_by: string;
  resumed_by: string;
  /** On which it runs or ran last; null before. */
  host: string | null;
  loaded_device: string;
  /** Launcher and number, `slurm:17`. */
  cluster_job: string | null;
  /** Of one run only, not in a list. */
  waits_for?: Record<string, string>;
  /** Of a queued run: what keeps it from starting, in words. */
  waits_because?: string | null;
  config?: any;
  teachers?: Teacher[];
  trained?: string;
  slot?: string | null;
  accepted_changes?: { attempt: number; step: number; changes: ChangedInput[] }[];
  checkpoints?: Checkpoint[];
  scales?: Record<string, number>;
  versions?: Record<string, string>;
}

/** Of `hosts`; `age` in seconds since it was heard of, memory in bytes. */
interface HostItem {
  name: string;
  here: boolean;
  seen: boolean;
  age: number;
  clock: string | null;
  devices: {
    slot: string;
    name: string;
    memory: number | null;
    run: { id: string; name: string; started_by: string } | null;
  }[];
}

/** Of `runs/RUN/gpu`: bytes, and percent. */
interface GpuState {
  slot: string | null;
  name: string | null;
  total: number | null;
  free: number | null;
  use: number | null;
}

/** Columns over the steps of a run, all of one length; null where a step has no value. */
type StepColumns = Record<string, (number | null)[]>;

interface Evaluation {
  step: number;
  suite: string;
  metric: string;
  value: number;
  n: number;
  standard_error: number | null;
}

/** Whether a completion is right, and its reward; null where it is not graded. */
interface Graded {
  right: boolean | null;
  reward: number | null;
}

/** A note on a token of a rollout; on the rollout as a whole where `position` is null. */
interface RolloutMark {
  id: string;
  run_id: string;
  rollout_id: string;
  position: number | null;
  note: string;
  version: number;
  created_at: number;
  changed_at: number;
  /** A resumed run wrote another text there than the one that was marked. */
  rewritten?: boolean;
}

/** A mark in the list of a run; without its rollout (null) where a resumed run has not written that again. */
interface ListedMark extends RolloutMark {
  step: number | null;
  kind: string | null;
  group: number | null;
  sample: number | null;
  right: boolean | null;
  prompt: string | null;
  completion: string | null;
  /** The token and what stands around it; null for a whole rollout. */
  text: string | null;
  before: string | null;
  after: string | null;
}

/** What the file with the prompts of marked rollouts holds. */
interface MarkedPrompts {
  count: number;
  /** On prompts that it lacks, or has as text only. */
  remarks: string[];
  /** Of a run on the file that grades as this one did. */
  settings: string[];
}

/** A rollout in a list. */
interface RolloutItem extends Graded {
  id: string;
  run_id: string;
  step: number;
  kind: "train" | "eval" | "probe" | "branch" | "import";
  group: number;
  sample: number;
  author: "student" | "teacher" | "given";
  /** Who judged: the path of its section, of an import its name; null: not recorded, or nobody. */
  teacher?: string | null;
  /** Token that the teacher read in place of the stop id. */
  teacher_end: string | null;
  /** Updates between the weights that wrote it and those that it trained; null: not recorded, or not trained on. */
  staleness?: number | null;
  tokens: number;
  finish_reason: "stop" | "length" | null;
  kl_sum: number | null;
  kl_mean: number | null;
  kl_max: number | null;
  prompt: string;
  completion: string;
  damaged: boolean | null;
  /** Equal for rollouts of one prompt with the very same tokens; null where they are not known. */
  same?: string | null;
  answer: string | null;
  /** What the run's grader took out of the completion; null: nothing, and the note says why. */
  extracted?: string | null;
  extraction_note?: string;
  grader?: string | null;
  /** How many marks it has, its tokens' included. */
  marked?: number;
}

/** A teacher as configured; `prompt` and `system` are the templates of what it reads instead. */
interface Teacher {
  /** Its section of the configuration. */
  path: string;
  route: string;
  name: string;
  prompt: string | null;
  system: string | null;
}

/** A teacher by which a list of rollouts is filtered. */
interface Judge {
  path: string;
  name: string;
}

/** All about one rollout but its tokens. */
interface RolloutMeta extends RolloutItem {
  run_name: string;
  teachers?: Teacher[];
  /** What the teacher read, as rendered; null where it read the student's prompt. */
  teacher_prompt?: string | null;
  marks?: RolloutMark[];
  objective: string;
  prompt_tokens: number;
  temperature: number | null;
  top_k: number;
  /** Names of the columns that are stored, and why others are not. */
  columns: string[];
  absent: Record<string, string>;
  /** Largest value of each metric over the run. */
  scales: Record<string, number>;
  damage?: string;
}

/** One of the worst tokens of a run, with the text around it. */
interface HotToken {
  rollout_id: string;
  kind?: string;
  group?: number;
  step: number;
  position: number;
  token_id: number;
  heat: number;
  reverse_kl: number | null;
  student_logprob: number | null;
  teacher_logprob: number | null;
  text: string;
  before: string;
  after: string;
  /** The teacher's top choice. */
  wanted: string | null;
  wanted_logprob: number | null;
}

interface HotTokens extends Page<HotToken> {
  source: "index" | "records";
  kept?: number;
  read?: number;
  rollouts?: number;
  stored?: number;
  capped?: boolean;
  cap?: number;
  damaged?: number;
}

interface Evidence {
  label: string;
  value: number | null;
  unit: string;
  fires: "above" | "below" | null;
  threshold: number | null;
}

interface DiagnosisFinding {
  code: string;
  severity: "error" | "warning" | "info";
  title: string;
  text: string;
  advice: string;
  evidence: Evidence[];
  rollouts: { id: string; step: number; position: number | null; why: string }[];
  filter: Record<string, string | number>;
}

interface DiagnosisCheck {
  code: string;
  title: string;
  judged: boolean;
  why: string;
  evidence: Evidence[];
}

interface DiagnosisSample {
  rollouts: number;
  tokens: number;
  steps: number;
  skipped: number;
  damaged: number;
  enough: boolean;
}

interface DiagnosisReport {
  items: DiagnosisFinding[];
  silent: DiagnosisCheck[];
  looked_at: DiagnosisSample;
}

/** A request to the model process while it is answered. */
interface ModelRequestState {
  id: string;
  state: "queued" | "running" | "done" | "failed";
  phase?: string;
  answer?: any;
  error_text?: string;
  hint?: string;
}

interface DoctorFinding {
  code: string;
  severity: "error" | "warning" | "info" | "ok";
  title: string;
  text: string;
  advice?: string;
  evidence?: Record<string, unknown>;
}

interface MemoryEstimate {
  device: number;
  host: number;
  unknown: string[];
  parts: { name: string; formula: string; where: string; phase: string; bytes: number }[];
}

interface DoctorState extends ModelRequestState {
  phase: string;
  findings: DoctorFinding[];
  memory: MemoryEstimate | null;
}

interface ReadPrompt {
  section: string;
  model: string;
  same: boolean;
  tokens: number | null;
  limit: number | null;
  limited_by: string;
  unknown: number;
  problem: string;
  pieces: { text: string; kind: "" | "special" | "cut" }[];
}

interface PreviewedPrompt {
  where: string;
  form: string;
  fields: Record<string, string>;
  answer: string | null;
  completion: string | null;
  verdict: "kept" | "left out" | "refused";
  readers: ReadPrompt[];
}

/** Answer to POST /prompt-preview. */
interface PromptPreviewAnswer {
  name: string;
  rows: {
    source: string;
    rows: number;
    tried: number;
    form: string;
    answers: number;
    unusable: number;
    problems: { row: string; message: string }[];
    columns: Record<string, string>;
  };
  count: number;
  counted: number;
  longest: number;
  too_long: number;
  overlong: "error" | "drop";
  problem: string;
  note: string;
  prompts: PreviewedPrompt[];
}

/** A JSON schema node of the configuration, with our own keywords. */
interface SchemaNode {
  type?: string;
  $ref?: string;
  properties?: Record<string, SchemaNode>;
  anyOf?: SchemaNode[];
  allOf?: SchemaNode[];
  enum?: string[];
  default?: unknown;
  description?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  choices?: Record<string, string>;
  only_for?: string[];
  examples?: unknown[];
  additionalProperties?: SchemaNode | boolean;
  patternProperties?: Record<string, SchemaNode>;
  $defs?: Record<string, SchemaNode>;
}

interface Recipe {
  name: string;
  title: string;
  description: string;
  config: any;
}

interface ConfigForm {
  schema: SchemaNode;
  defaults: any;
  visible: string[];
  recipes: Recipe[];
}

interface ConfigCheck {
  ok: boolean;
  problems: FieldProblem[];
  config: any;
  yaml: string;
  command: string;
  /** Where there are problems: the same settings as a form shows them. */
  draft: { config: any; yaml: string } | null;
}

/** A value with its interval over seeds; null where there is none. */
interface Interval {
  value: number | null;
  low?: number | null;
  high?: number | null;
  start?: number | null;
}

interface ExperimentRun {
  id: string;
  seed: number;
  status: RunStatus;
  step: number;
  steps: number;
  score: number | null;
  start: number | null;
  costs: Record<string, number> | null;
}

type Settings = Record<string, unknown>;

interface TuningChoice {
  choice: Settings;
  criterion: number | null;
  chosen: boolean;
  runs: ExperimentRun[];
}

/** Mean of an arm over its seeds; x axes by name. */
interface ArmCurve {
  y: number[];
  low: number[];
  high: number[];
  n: number[];
  [axis: string]: number[];
}

interface Arm {
  name: string;
  label: string;
  note: string | null;
  n: number;
  score: number | null;
  low: number | null;
  high: number | null;
  cells: Record<string, Interval>;
  curve: ArmCurve | null;
  choices: TuningChoice[];
  chosen: Settings | null;
  runs: ExperimentRun[];
  [cost: `${string}_to_target`]: number | null;
}

interface ExperimentTarget {
  text: string;
  metric: string;
  values: { seed: number; value: number | null }[];
}

interface ArmComparison {
  over: string;
  under: string;
  label: string;
  note: string | null;
  reached: boolean;
  ratios: Record<string, Interval>;
}

/** An experiment in a list. */
interface ExperimentItem {
  id: string;
  name: string;
  title: string;
  status: string;
  quick: boolean;
  seeds: number;
  done: number;
  total: number;
  created_at: number;
  finished_at: number | null;
  error_text: string;
}

interface StartRow {
  arm: string;
  label: string;
  score: number | null;
  cells: Record<string, Interval>;
}

interface Experiment extends ExperimentItem, ExperimentTexts {
  question: string;
  description: string;
  command: string;
  phase: string;
  metric: string;
  arms: Arm[];
  columns: { metric: string; label: string }[];
  table: StartRow[];
  target: ExperimentTarget | null;
  comparisons: ArmComparison[];
}

interface ExperimentTexts {
  claim?: string;
  published?: string;
  shows?: string;
  limits?: string;
}

interface ExperimentDefinition extends ExperimentTexts {
  name: string;
  title: string;
  question: string;
  description: string;
  bundled: boolean;
  arms: { name: string; label: string }[];
  seeds: number;
  quick_seeds: number;
  minutes: { quick: number | null; full: number | null };
}

interface ComparedCurve {
  run: string;
  x: number[];
  y: number[];
  smooth: number[];
  not_finite: number;
  teacher: TeacherScore | null;
}

/** What the teacher itself reached on the prompts of an evaluation. */
interface TeacherScore {
  value: number;
  n: number;
  standard_error: number | null;
}

interface ComparedGroup {
  runs: string[];
  x: number[];
  y: number[];
  low: number[];
  high: number[];
  n: number[];
}

interface ComparedChart {
  metric: string;
  curves: ComparedCurve[];
  groups: ComparedGroup[];
}

interface ReachItem {
  run: string;
  best: number | null;
  reached: boolean;
  costs: Record<string, number>;
  ratio: Record<string, number | null>;
}

interface ReachGroup {
  runs: string[];
  n: number;
  reached: number;
  costs: Record<string, number> | null;
}

interface Reach {
  metric: string;
  target: number | null;
  direction: "at_least" | "at_most";
  baseline: string;
  chosen: string;
  interpolated: boolean;
  items: ReachItem[];
  groups: ReachGroup[];
}

interface ComparedRun extends Run {
  training_seconds: number;
  disk: Disk;
}

interface Comparison {
  runs: ComparedRun[];
  x: string;
  metrics: string[];
  charts: ComparedChart[];
  reach: Reach;
  differences: { fields: { field: string; values: Record<string, unknown> }[]; equal: number };
}

/** First and last of a bin, both inclusive. */
type Bin = [first: number, last: number];

/** What every answer of /insights/ says of where it comes from. */
interface InsightFacts {
  counted: number;
  rollouts: number;
  read: number;
  stored: number;
  capped: boolean;
  cap: number;
  damaged: number;
  quantity: "reverse_kl" | "log_ratio" | "mixed";
  seconds: number;
}

interface InsightKind {
  kind: string;
  max_step: number;
}

interface PositionsInsight extends InsightFacts {
  steps: Bin[];
  positions: Bin[];
  tokens: number[][];
  kl: number[][];
}

/** A group of tokens: how many, and what part of the KL. */
interface KlShare {
  tokens: number;
  token_share: number | null;
  kl_mean: number | null;
  kl_share: number | null;
}

interface TokensInsight extends InsightFacts {
  classes: (KlShare & { class: string })[];
  strings: (KlShare & { class: string; token_id: number; text: string })[];
  distinct: number;
}

interface Bounds {
  min_entropy?: number | null;
  max_entropy?: number | null;
  min_heat?: number | null;
  max_heat?: number | null;
}

interface QuadrantsInsight extends InsightFacts {
  thresholds: Record<string, number>;
  quadrants: (KlShare & Bounds & { unsure: boolean; disagree: boolean })[];
  /** The last edge is null: without end. */
  entropy_edges: (number | null)[];
  heat_edges: (number | null)[];
  grid: number[][];
  kl: number[][];
  without: number;
}

interface AdvantagesInsight extends InsightFacts {
  edges: (number | null)[];
  counts: number[];
  advantage_quantity: string;
  measured: number;
  mean: number | null;
  top: { share: number; advantage: number | null; kl: number | null };
}

interface CorrectnessInsight extends InsightFacts {
  groups: (KlShare & { grade: string; rollouts: number })[];
  penalised: RolloutItem[];
  endorsed: RolloutItem[];
}

interface OverlapInsight extends InsightFacts {
  step: number[];
  k: number[];
  tokens: number[];
  overlap: number[];
  student_mass: number[];
  teacher_mass: number[];
}

interface StopSeries {
  step: number[];
  rollouts: number[];
  student: number[];
  teacher: number[];
  student_most: number[];
  teacher_most: number[];
  student_bounded: number[];
  teacher_bounded: number[];
}

interface StopsInsight extends InsightFacts {
  stops: { token_id: number; text: string; endings: number; places: Record<string, StopSeries> }[];
}

/** A prompt that several runs have, with each run's newest rollout. */
interface SharedPrompt {
  prompt: string;
  answer: string | null;
  rollouts: Record<string, RolloutItem>;
}

/** What a report's file holds beside the tokens. */
interface ReportData {
  run: Run;
  steps: StepColumns;
  evaluations: Evaluation[];
  rollouts: RolloutMeta[];
  total: number;
  hot: HotToken[];
  marks: ListedMark[];
  diagnosis: DiagnosisReport | null;
  yaml: string;
  temperature: number;
  made: { at: string; version: string };
  /** Rollout that is shown first, or "". */
  opens: string;
}

type SourceKind = "model" | "data";

/** Of GET /sources/{kind}. */
interface SourcePlaces {
  roots: { number: number; path: string }[];
  upload_bytes: number;
}

interface ModelText {
  form: string;
  kind?: string;
  parameters?: number | null;
  layers?: number | null;
  hidden?: number | null;
  context?: number | null;
  bytes?: number | null;
  base?: string;
  rank?: number | null;
  problem?: string;
}

/** What can be chosen (`value`) or opened: a folder, a file, a bundled name, a run, an upload. */
interface SourceItem {
  name: string;
  value: string | null;
  path?: string;
  folder?: boolean;
  bytes?: number | null;
  modified?: number;
  model?: ModelText | null;
  /** Of an upload: its name on the disk. */
  file?: string;
  id?: string;
  status?: string;
  score?: number | null;
  steps?: number[];
  step?: number;
}

interface SourcePage extends Page<SourceItem> {
  left_out?: number;
  more?: boolean;
  here?: SourceItem;
}

/** Answer to POST /uploads. */
interface UploadAnswer {
  name: string;
  value: string;
  rows: number;
  form: string;
  known: boolean;
  note: string;
}
