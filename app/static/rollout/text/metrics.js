// The quantities a token can be tinted by: their columns, units, and why one cannot be shown.

const negate = (values) => values.map((v) => -v);

function difference(left, right) {
  const result = new Float32Array(left.length);
  for (let i = 0; i < left.length; i++) result[i] = left[i] - right[i];
  return result;
}

/**
 * `warm` is the sign that is drawn in orange ("the coach likes it less"); `of` computes the values
 * from the columns that `needs` names; `run` is the name of its maximum over the run.
 */
export const METRICS = [
  {
    key: "reverse_kl",
    label: "Reverse KL",
    needs: ["reverse_kl"],
    run: "reverse_kl",
    means: "exact reverse KL of student from coach, over the whole vocabulary",
    of: (c) => c.reverse_kl,
  },
  {
    key: "log_ratio",
    label: "Log-ratio, signed",
    needs: ["student_logprobs", "teacher_logprobs"],
    signed: true,
    warm: 1,
    run: "log_ratio",
    means: "log p(student) − log p(coach) of the sampled token; orange: the coach likes it less",
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
    means: "advantage that the loss used; orange: pushed down",
    of: (c) => c.advantages,
  },
  {
    key: "teacher_surprise",
    label: "Coach’s surprise",
    needs: ["teacher_logprobs"],
    run: "teacher_surprise",
    means: "−log p(coach) of the sampled token",
    of: (c) => negate(c.teacher_logprobs),
  },
  {
    key: "student_surprise",
    label: "Student’s surprise",
    needs: ["student_logprobs"],
    run: "student_surprise",
    means: "−log p(student) of the sampled token",
    of: (c) => negate(c.student_logprobs),
  },
  {
    key: "teacher_entropy",
    label: "Coach’s entropy",
    needs: ["teacher_entropy"],
    run: "teacher_entropy",
    means: "entropy of the coach’s next-token distribution",
    of: (c) => c.teacher_entropy,
  },
  {
    key: "student_entropy",
    label: "Student’s entropy",
    needs: ["student_entropy"],
    run: "student_entropy",
    means: "entropy of the student’s next-token distribution",
    of: (c) => c.student_entropy,
  },
  {
    key: "teacher_rank",
    label: "Rank under the coach",
    needs: ["teacher_rank"],
    unit: "",
    log: true,
    run: "teacher_rank",
    means: "place of the sampled token in the coach’s order, 0 is its first choice; drawn as log(1 + rank)",
    of: (c) => Float32Array.from(c.teacher_rank),
  },
  {
    key: "top1",
    label: "Top-1 agreement",
    needs: ["teacher_rank"],
    unit: "",
    flag: true,
    means: "whether the sampled token is the coach’s first choice; tinted where it is not",
    of: (c) => Float32Array.from(c.teacher_rank, (v) => (v === 0 ? 0 : 1)),
  },
  {
    key: "importance",
    label: "Importance ratio",
    needs: ["student_logprobs", "sampler_logprobs"],
    signed: true,
    warm: -1,
    run: "importance",
    means: "log p(student) − log p(sampler) of the sampled token; far from 0: sampler and trainer differ",
    of: (c) => difference(c.student_logprobs, c.sampler_logprobs),
  },
];

const COLUMN_WORDS = {
  reverse_kl: "exact reverse KL",
  student_logprobs: "student log-probabilities",
  teacher_logprobs: "coach log-probabilities",
  sampler_logprobs: "sampler log-probabilities",
  advantages: "advantages",
  teacher_entropy: "coach entropies",
  student_entropy: "student entropies",
  teacher_rank: "coach ranks",
};

export function metricOf(key) {
  return METRICS.find((m) => m.key === key) ?? METRICS[0];
}

/** Why a metric cannot be shown for a rollout, or "" where it can, perhaps after a fetch. */
export function reasonAgainst(metric, rollout) {
  const missing = metric.needs.find((name) => !rollout.columns[name] && !rollout.meta.columns.includes(name));
  if (!missing) return "";
  return rollout.meta.absent?.[missing] ?? `this record has no ${COLUMN_WORDS[missing] ?? missing}`;
}

/** Columns that a metric needs and that are stored but not here yet. */
export function toFetch(metric, rollout) {
  return metric.needs.filter((name) => !rollout.columns[name]);
}

/** Values of a metric; NaN where a token has none. Kept with the rollout. */
export function valuesOf(metric, rollout) {
  rollout.values ??= new Map();
  if (!rollout.values.has(metric.key)) rollout.values.set(metric.key, metric.of(rollout.columns));
  return rollout.values.get(metric.key);
}

export function extremeOf(values) {
  let top = 0;
  for (const value of values) {
    const size = Math.abs(value);
    if (size > top && size < Infinity) top = size;
  }
  return top;
}

/** Token numbers, worst first: by size of the metric (signed metrics in both directions). */
export function worstFirst(metric, rollout) {
  rollout.orders ??= new Map();
  if (!rollout.orders.has(metric.key)) {
    const values = valuesOf(metric, rollout);
    const size = Float64Array.from(values, (v) => (Number.isNaN(v) ? -1 : Math.abs(v)));
    const order = Uint32Array.from(size.keys()).sort((a, b) => size[b] - size[a] || a - b);
    rollout.orders.set(metric.key, order);
  }
  return rollout.orders.get(metric.key);
}

/** Each token's place in the worst-first order, from 1. */
export function placesOf(metric, rollout) {
  rollout.places ??= new Map();
  if (!rollout.places.has(metric.key)) {
    const places = new Uint32Array(rollout.n);
    worstFirst(metric, rollout).forEach((at, k) => (places[at] = k + 1));
    rollout.places.set(metric.key, places);
  }
  return rollout.places.get(metric.key);
}

export function unitOf(metric) {
  return metric.unit ?? "nats";
}
