// What a run's metric is called, by its name in steps and evaluations.
import { METRICS } from "./metric_table.js";

const EVALUATION = /^eval\//; // eval/SUITE/METRIC in comparisons, SUITE/METRIC in experiments

/**
 * Label, unit, sentence and whether it is a fraction; a metric of others is called by its own name.
 * @param {string} name @returns {MetricEntry}
 */
export function metricOf(name) {
  const listed = Object.hasOwn(METRICS, name); // such as system/cpu
  const [suite, base] = listed ? ["", name] : partsOf(name.replace(EVALUATION, ""));
  const k = /^((?:teacher_)?pass@)(\d+)$/.exec(base);
  const key = k ? `${k[1]}k` : base;
  if (!Object.hasOwn(METRICS, key)) {
    const label = words([suite, base].filter(Boolean).join(" "));
    return { label, unit: "", help: "", share: false };
  }
  const entry = METRICS[key];
  const label = k ? entry.label.replace(/k$/, k[2]) : entry.label;
  return { ...entry, label: suite ? `${words(suite)} ${label}` : label };
}

/** @param {string} text the last part is the metric; suites may hold slashes @returns {[string, string]} */
function partsOf(text) {
  const at = text.lastIndexOf("/");
  return [text.slice(0, Math.max(0, at)), text.slice(at + 1)];
}

/** @param {string} name */
function words(name) {
  return name.replaceAll("/", " ").replaceAll("_", " ");
}
