// What is done to a curve before it is drawn: smoothing, and a range where there is nothing to span.

/** What the smoothing of every page is, in words. */
export const SMOOTHING = "exponential moving average, bias-corrected";

/**
 * s_t = w·s_{t−1} + (1 − w)·y_t from s_0 = 0, divided by 1 − w^t; t counts the measured points, and
 * null stays null. The same as `smoothed` of storage/comparison/curves.py.
 * @param {(number | null)[]} values @param {number} weight 0 changes nothing; below 1
 * @returns {(number | null)[]}
 */
export function smoothed(values, weight) {
  let mean = 0;
  let share = 1;
  return values.map((value) => {
    if (value === null || value === undefined || !Number.isFinite(value)) return null;
    mean = weight * mean + (1 - weight) * value;
    share *= weight;
    return mean / (1 - share);
  });
}

/** @param {Iterable<unknown>} values @returns {number[]} */
export function finite(values) {
  const kept = [];
  for (const value of values) if (typeof value === "number" && Number.isFinite(value)) kept.push(value);
  return kept;
}

/**
 * A range around values that are (nearly) one, with ticks that differ; null where they span enough.
 * @param {number[]} values finite @param {{log?: boolean, fromZero?: boolean}} [options]
 * @returns {[number, number] | null} of a log axis as exponents of 10
 */
export function constantRange(values, { log = false, fromZero = false } = {}) {
  const shown = log ? values.filter((v) => v > 0) : values;
  if (!shown.length) return null;
  const low = shown.reduce((a, b) => Math.min(a, b));
  const high = shown.reduce((a, b) => Math.max(a, b));
  const size = Math.max(Math.abs(low), Math.abs(high));
  if (high - low > 1e-6 * size) return null;
  if (log) return [Math.floor(Math.log10(low) - 0.5), Math.ceil(Math.log10(high) + 0.5)];
  if (size === 0) return fromZero ? [0, 1] : [-1, 1];
  if (fromZero) return low > 0 ? [0, 1.5 * size] : [-1.5 * size, 0];
  return [low - size / 2, high + size / 2];
}
