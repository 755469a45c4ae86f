// Figures of an experiment as text: intervals, costs, ratios, what an arm was set to.
import { duration, integer, isShare, minus, number, percent, plain, short, withUnit } from "../lib/format.js";

const NONE = "–";
export const COSTS = [
  ["steps", "Steps", count],
  ["tokens", "Tokens", short],
  ["flops", "Compute", (value) => withUnit(value, "FLOP")],
  ["seconds", "Time", duration],
];

/** "83.1%", or "0.412" where the metric is not a fraction. */
export function figure(value, metric) {
  return isShare(metric) ? percent(value, 1) : number(value);
}

/** "83.1", in an interval beside "83.1%". */
export function bare(value, metric) {
  return figure(value, metric).replace("%", "");
}

/** "83.1% (82.0–84.9)". */
export function figureBetween({ value, low, high }, metric) {
  return between(figure(value, metric), low, high, (v) => bare(v, metric));
}

/** "7.1× (6.2–8.3)": all three with the digits that the value needs. */
export function ratio({ value, low, high }) {
  if (missing(value)) return NONE;
  const size = Math.abs(value);
  const places = size >= 100 ? 0 : size >= 1 ? 1 : size >= 0.1 ? 2 : 3;
  const fixed = (v) => minus(v.toFixed(places));
  return between(`${fixed(value)}×`, low, high, fixed);
}

function between(text, low, high, show) {
  if (missing(low) || missing(high)) return text;
  return `${text} (${show(low)}${low < 0 ? " to " : "–"}${show(high)})`;
}

export function missing(value) {
  return value === null || value === undefined;
}

/** A number of steps, which as a mean over seeds may be a broken one. */
function count(value) {
  return missing(value) || Number.isInteger(value) || value >= 100 ? integer(value) : value.toFixed(1);
}

/** {"optimizer.learning_rate": 0.001} → "learning rate 0.001". */
export function settings(choice) {
  const parts = Object.entries(choice ?? {}).map(
    ([name, value]) => `${name.split(".").pop().replaceAll("_", " ")} ${settingText(value)}`,
  );
  return plain(parts.join(", ") || "default settings", 120);
}

/** The same as the command line takes it. */
export function assignments(choice) {
  return plain(
    Object.entries(choice ?? {})
      .map(([name, value]) => `${name}=${settingText(value)}`)
      .join(" "),
    400,
  );
}

function settingText(value) {
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** An arm's name in full: a definition takes at most 100 characters. */
export function nameOf(arm) {
  return plain(arm.label, 100);
}

export function seeds(count) {
  return `${integer(count)} ${count === 1 ? "seed" : "seeds"}`;
}

export function minutes(value) {
  if (missing(value)) return NONE;
  if (value < 1) return "under 1 min";
  if (value < 90) return `about ${integer(value)} min`;
  return `about ${value < 570 ? Number((value / 60).toFixed(1)) : integer(value / 60)} h`;
}
