// The quantities a token can be tinted by: their columns, units, and why one cannot be shown.
import { oncePerObject } from "../state.js";

/** @param {FloatColumn} values */
const negate = (values) => values.map((v) => -v);

/** @param {FloatColumn} left @param {FloatColumn} right */
function difference(left, right) {
  const result = new Float32Array(left.length);
  for (let i = 0; i < left.length; i++) result[i] = left[i] - right[i];
  return result;
}

/**
 * `warm` is the sign that is drawn in orange (less likely under the teacher); `of` computes the
 * values from the columns that `needs` names; `run` is the name of its maximum over the run.
 * @type {Metric[]}
 */
export const METRICS = [
  {
    key: "reverse_kl",
    label: "Reverse KL",
    needs: ["reverse_kl"],
    run: "reverse_kl",
    means: "KL(student ‖ teacher) of the next-token distributions, exact over the whole vocabulary",
    of: (c) => c.reverse_kl,
  },
  {
    key: "log_ratio",
    label: "Log-ratio, signed",
    needs: ["student_logprobs", "teacher_logprobs"],
    signed: true,
    warm: 1,
    run: "log_ratio",
    means: "log p(student) − log p(teacher) of the sampled token; orange: less likely under the teacher",
    of: (c) => difference(c.student_logprobs, c.teacher_logprobs),
  },
  {
    key: "advantage",
    label: "Advantage as trained",
    needs: ["advantages"],
    signed: true,
    warm: -1,
    run: "advantages",
    unit: "",
    means: "advantage used by the loss; orange: pushed down",
    of: (c) => c.advantages,
  },
  {
    key: "teacher_surprise",
    label: "Teacher surprisal",
    needs: ["teacher_logprobs"],
    run: "teacher_surprise",
    means: "−log p(teacher) of the sampled token",
    of: (c) => negate(c.teacher_logprobs),
  },
  {
    key: "student_surprise",
    label: "Student surprisal",
    needs: ["student_logprobs"],
    run: "student_surprise",
    means: "−log p(student) of the sampled token",
    of: (c) => negate(c.student_logprobs),
  },
  {
    key: "teacher_entropy",
    label: "Teacher entropy",
    needs: ["teacher_entropy"],
    run: "teacher_entropy",
    means: "entropy of the teacher’s next-token distribution",
    of: (c) => c.teacher_entropy,
  },
  {
    key: "student_entropy",
    label: "Student entropy",
    needs: ["student_entropy"],
    run: "student_entropy",
    means: "entropy of the student’s next-token distribution",
    of: (c) => c.student_entropy,
  },
  {
    key: "teacher_rank",
    label: "Teacher rank",
    needs: ["teacher_rank"],
    unit: "",
    log: true,
    run: "teacher_rank",
    means: "rank of the sampled token under the teacher (0: its first choice), drawn as log(1 + rank)",
    of: (c) => Float32Array.from(c.teacher_rank),
  },
  {
    key: "top1",
    label: "Top-1 agreement",
    needs: ["teacher_rank"],
    unit: "",
    flag: true,
    means: "whether the sampled token is the teacher’s first choice; tinted where it is not",
    of: (c) => Float32Array.from(c.teacher_rank, (v) => (v === 0 ? 0 : 1)),
  },
  {
    key: "importance",
    label: "Log importance ratio",
    needs: ["student_logprobs", "sampler_logprobs"],
    signed: true,
    warm: -1,
    run: "importance",
    means: "log p(student) − log p(sampler) of the sampled token; far from 0: trainer and sampler disagree",
    of: (c) => difference(c.student_logprobs, c.sampler_logprobs),
  },
];

/** @type {Record<string, string>} */
const COLUMN_WORDS = {
  reverse_kl: "exact reverse KL",
  student_logprobs: "student log-probabilities",
  teacher_logprobs: "teacher log-probabilities",
  sampler_logprobs: "sampler log-probabilities",
  advantages: "advantages",
  teacher_entropy: "teacher entropy",
  student_entropy: "student entropy",
  teacher_rank: "teacher ranks",
};

/** @param {string} key */
export function metricOf(key) {
  return METRICS.find((m) => m.key === key) ?? METRICS[0];
}

/**
 * Why a metric cannot be shown for a rollout, or "" where it can, perhaps after a fetch.
 * @param {Metric} metric @param {Rollout} rollout
 */
export function reasonAgainst(metric, rollout) {
  const missing = metric.needs.find((name) => !rollout.columns[name] && !rollout.meta.columns.includes(name));
  if (!missing) return "";
  return rollout.meta.absent?.[missing] ?? `this record has no ${COLUMN_WORDS[missing] ?? missing}`;
}

/**
 * The metric of that key where the rollout has it, else the first one that it has.
 * @param {string} key @param {Rollout} rollout
 */
export function usableMetric(key, rollout) {
  const metric = metricOf(key);
  if (!reasonAgainst(metric, rollout)) return metric;
  return METRICS.find((m) => !reasonAgainst(m, rollout)) ?? metric;
}

/**
 * Columns that a metric needs and that are stored but not here yet.
 * @param {Metric} metric @param {Rollout} rollout
 */
export function toFetch(metric, rollout) {
  return metric.needs.filter((name) => !rollout.columns[name]);
}

/** By a metric's key: its values, its worst-first order, and each token's rank in it. */
const derived = oncePerObject((/** @type {Readonly<Columns>} */ _columns) => ({
  /** @type {Map<string, NumberList>} */
  values: new Map(),
  /** @type {Map<string, Uint32Array>} */
  orders: new Map(),
  /** @type {Map<string, Uint32Array>} */
  ranks: new Map(),
}));

/**
 * What `compute` makes of a metric, kept in `results`.
 * @template V
 * @param {Map<string, V>} results @param {Metric} metric @param {() => V} compute
 */
function kept(results, metric, compute) {
  const result = results.get(metric.key) ?? compute();
  results.set(metric.key, result);
  return result;
}

/** Values of a metric; NaN where a token has none. @param {Metric} metric @param {Rollout} rollout */
export function valuesOf(metric, rollout) {
  return kept(derived(rollout.columns).values, metric, () => metric.of(rollout.columns));
}

/** @param {Iterable<number>} values */
export function extremeOf(values) {
  let top = 0;
  for (const value of values) {
    const size = Math.abs(value);
    if (size > top && size < Infinity) top = size;
  }
  return top;
}

/**
 * Token numbers, worst first: by size of the metric (signed metrics in both directions).
 * @param {Metric} metric @param {Rollout} rollout
 */
export function worstFirst(metric, rollout) {
  return kept(derived(rollout.columns).orders, metric, () => {
    const size = Float64Array.from(valuesOf(metric, rollout), (v) => (Number.isNaN(v) ? -1 : Math.abs(v)));
    return Uint32Array.from(size.keys()).sort((a, b) => size[b] - size[a] || a - b);
  });
}

/** Each token's rank in the worst-first order, from 1. @param {Metric} metric @param {Rollout} rollout */
export function ranksOf(metric, rollout) {
  return kept(derived(rollout.columns).ranks, metric, () => {
    const ranks = new Uint32Array(rollout.n);
    worstFirst(metric, rollout).forEach((index, k) => {
      ranks[index] = k + 1;
    });
    return ranks;
  });
}

/** @param {Metric} metric */
export function unitOf(metric) {
  return metric.unit ?? "nats";
}
