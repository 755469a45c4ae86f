// Two rollouts of one prompt: how far they agree, and a metric's difference over what they share.
import { valuesOf } from "./metrics.js";

/**
 * How many ids two completions share from their start.
 * @param {ArrayLike<number>} one @param {ArrayLike<number>} other
 */
export function sharedStart(one, other) {
  const shorter = Math.min(one.length, other.length);
  let at = 0;
  while (at < shorter && one[at] === other[at]) at++;
  return at;
}

/**
 * This rollout's values minus the other's over the shared tokens; past them its own.
 * @param {Metric} metric @param {Rollout} rollout @param {{other: Rollout, common: number}} compared
 */
export function differenceOf(metric, rollout, { other, common }) {
  return comparing(metric, `${metric.key}:minus:${other.meta.id}`, common === rollout.n, () => {
    const values = Float32Array.from(valuesOf(metric, rollout));
    const others = valuesOf(metric, other);
    for (let i = 0; i < common; i++) values[i] -= others[i];
    return values;
  });
}

/**
 * For the other text, so that both look alike: this one minus the other; past the shared tokens its own.
 * @param {Metric} metric @param {Rollout} rollout @param {{other: Rollout, common: number}} compared
 */
export function mirrored(metric, rollout, { other, common }) {
  return comparing(metric, `${metric.key}:from:${rollout.meta.id}`, false, () => {
    const values = Float32Array.from(valuesOf(metric, other));
    const left = valuesOf(metric, rollout);
    for (let i = 0; i < common; i++) values[i] = left[i] - values[i];
    return values;
  });
}

/**
 * @returns {Metric}
 * @param {Metric} metric @param {string} key @param {boolean} whole @param {() => NumberList} of
 */
function comparing(metric, key, whole, of) {
  const warm = metric.warm ?? 1;
  const rest = whole ? "" : "; after the shared tokens, the metric itself";
  return {
    ...metric,
    key,
    base: metric,
    of,
    signed: true,
    warm,
    label: `Difference, ${metric.label}`,
    means: `${metric.label}, this rollout minus the other; orange: ${warm > 0 ? "more" : "less"} here${rest}`,
  };
}
