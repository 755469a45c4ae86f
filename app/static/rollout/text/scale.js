// From a metric's value to a level of the palette: (value / maximum) ^ gamma.
import { levelOf } from "../../lib/palette.js";
import { extremeOf, valuesOf } from "./metrics.js";

/**
 * The largest value on the scale: typed, or this rollout's, or the run's.
 * @param {Metric} metric @param {Rollout} rollout @param {ScaleChoice} choice
 */
function maximumOf(metric, rollout, choice) {
  if (metric.flag) return 1;
  if (choice.max > 0) return choice.max;
  const largest = () => extremeOf(valuesOf(metric, rollout)) || 1;
  if (choice.own) return largest();
  const scale = rollout.meta.scales ?? {};
  return scale[metric.run ?? ""] || largest();
}

/**
 * → {levels: Uint8Array, signs: Int8Array, values}; signs are 0 for sequential metrics.
 * @param {Metric} metric @param {Rollout} rollout @param {ScaleChoice} choice
 */
export function paint(metric, rollout, choice) {
  const values = valuesOf(metric, rollout);
  const top = maximumOf(metric, rollout, choice);
  const levels = new Uint8Array(values.length);
  const signs = new Int8Array(values.length);
  for (let i = 0; i < values.length; i++) {
    levels[i] = levelOf(Math.abs(values[i]), top, choice.gamma, metric.log);
    if (metric.signed) signs[i] = Math.sign(values[i]) * (metric.warm ?? 1);
  }
  return { levels, signs, values, top, metric };
}
