// Figures of an experiment as text: intervals, costs, ratios, what an arm was set to.

import { metricOf } from "../lib/charts/run_metrics.js";
import { duration, integer, minus, number, percent, plain, short, withUnit } from "../lib/format.js";

const NONE = "–";
/** @type {[axis: string, label: string, show: (value: Value) => string][]} */
export const COSTS = [
  ["steps", "Steps", count],
  ["tokens", "Tokens", short],
  ["flops", "Compute", (value) => withUnit(value, "FLOP")],
  ["seconds", "Time", duration],
];

/** "83.1%", or "0.412" where the metric is not a fraction. @param {Value} value @param {string} metric */
export function figure(value, metric) {
  return metricOf(metric).share ? percent(value, 1) : number(value);
}

/** "83.1", in an interval beside "83.1%". @param {Value} value @param {string} metric */
export function bare(value, metric) {
  return figure(value, metric).replace("%", "");
}

/** "83.1% (82.0–84.9)". @param {Interval} interval @param {string} metric */
export function figureBetween({ value, low, high }, metric) {
  return between(figure(value, metric), low, high, (v) => bare(v, metric));
}

/** "7.1× (6.2–8.3)": all three with the digits that the value needs. @param {Interval} interval */
export function ratio({ value, low, high }) {
  if (missing(value)) return NONE;
  const size = Math.abs(value);
  const places = size >= 100 ? 0 : size >= 1 ? 1 : size >= 0.1 ? 2 : 3;
  /** @param {number} v */
  const fixed = (v) => minus(v.toFixed(places));
  return between(`${fixed(value)}×`, low, high, fixed);
}

/** @param {string} text @param {Value} low @param {Value} high @param {(value: number) => string} show */
function between(text, low, high, show) {
  if (missing(low) || missing(high)) return text;
  return `${text} (${show(low)}${low < 0 ? " to " : "–"}${show(high)})`;
}

/** @param {unknown} value @returns {value is null | undefined} */
export function missing(value) {
  return value === null || value === undefined;
}

/** A number of steps; a mean over seeds may be a fraction. @param {Value} value */
function count(value) {
  return missing(value) || Number.isInteger(value) || value >= 100 ? integer(value) : value.toFixed(1);
}

/** {"optimizer.learning_rate": 0.001} → "learning rate 0.001". @param {Settings | null} choice */
export function settings(choice) {
  const parts = Object.entries(choice ?? {}).map(
    ([name, value]) => `${name.split(".").slice(-1)[0].replaceAll("_", " ")} ${settingText(value)}`,
  );
  return plain(parts.join(", ") || "default settings", 120);
}

/** The same as the command line takes it. @param {Settings | null} choice */
export function assignments(choice) {
  return plain(
    Object.entries(choice ?? {})
      .map(([name, value]) => `${name}=${settingText(value)}`)
      .join(" "),
    400,
  );
}

/** @param {unknown} value */
function settingText(value) {
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** An arm's name in full: a definition takes at most 100 characters. @param {{label: string}} arm */
export function nameOf(arm) {
  return plain(arm.label, 100);
}

/** @param {number} count */
export function seeds(count) {
  return `${integer(count)} ${count === 1 ? "seed" : "seeds"}`;
}

/** @param {Value} value */
export function minutes(value) {
  if (missing(value)) return NONE;
  if (value < 1) return "under 1 min";
  if (value < 90) return `about ${integer(value)} min`;
  return `about ${value < 570 ? Number((value / 60).toFixed(1)) : integer(value / 60)} h`;
}
