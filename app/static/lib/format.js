// Numbers with sensible digits, times in words.

const NONE = "–";

/** @param {number | null | undefined} value */
export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 10_000 || size < 10 ** -digits) return minus(value.toExponential(1));
  const places = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return minus(value.toFixed(Math.min(places, digits)));
}

/** @param {number | null | undefined} value */
export function fixed(value, places = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return number(value);
  return minus(value.toFixed(places));
}

/** Nats in a table: thousandths, so that the points align, and no false 0. @param {number | null | undefined} value */
export function nats(value) {
  if (value && value > 0 && value < 0.0005) return "<0.001";
  return fixed(value, 3);
}

/** A sum of nats: hundredths, or whole ones with thousands. @param {number | null | undefined} value */
export function sum(value) {
  if (value === null || value === undefined || Math.abs(value) < 1000) return fixed(value, 2);
  return minus(integer(value));
}

/** A probability: two digits, and no false 0 or 1. @param {number | null | undefined} value */
export function probability(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  if (value > 0 && value < 0.0005) return "<0.001";
  if (value < 0.01) return value.toFixed(3);
  if (value > 0.995 && value < 1) return value > 0.9995 ? ">0.999" : value.toFixed(3);
  return value.toFixed(2);
}

/** @param {number | null | undefined} value */
export function percent(value, places = 0) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  const text = (value * 100).toFixed(places);
  return `${minus(Number(text) === 0 ? text.replace("-", "") : text)}%`;
}

/** Whether a run, or a request, has not ended yet. @param {string} status */
export function isLive(status) {
  return status === "running" || status === "queued";
}

/** "right" or "wrong", or the reward where it says more than these; "" of an ungraded rollout. @param {Graded} rollout */
export function verdict({ right, reward }) {
  if (right === null || right === undefined) return "";
  if (reward !== Number(right)) return `reward ${number(reward)}`;
  return right ? "right" : "wrong";
}

const ORDINALS = new Intl.PluralRules("en", { type: "ordinal" });
/** @type {Partial<Record<Intl.LDMLPluralRule, string>>} */
const SUFFIXES = { one: "st", two: "nd", few: "rd", other: "th" };

/** 1st, 2nd, 3rd, 11th, 21st. @param {number} value */
export function ordinal(value) {
  return `${integer(value)}${SUFFIXES[ORDINALS.select(value)]}`;
}

/** How a teacher's first choice is told: it wants what has half of its mass. @param {Value} logprob */
export function leaning(logprob) {
  return logprob !== null && logprob !== undefined && Math.exp(logprob) >= 0.5 ? "wanted" : "leaned to";
}

/** @param {number | null | undefined} value */
export function integer(value) {
  if (value === null || value === undefined) return NONE;
  return Math.round(value).toLocaleString("en-US");
}

/** @param {number | null | undefined} value */
export function short(value) {
  if (value === null || value === undefined) return NONE;
  if (Math.abs(value) < 10_000) return integer(value);
  const units = ["", "k", "M", "G", "T", "P", "E"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.abs(value)) / 3));
  const scaled = value / 1000 ** power;
  return `${scaled < 100 ? scaled.toPrecision(3) : scaled.toFixed(0)}${units[power]}`;
}

/** "227 TFLOP": the prefix stands with the unit. @param {number | null | undefined} value @param {string} unit */
export function withUnit(value, unit) {
  if (value === null || value === undefined) return NONE;
  return short(value).replace(/([a-zA-Z]?)$/, ` $1${unit}`);
}

/** @param {number | null | undefined} value */
export function bytes(value) {
  return value ? withUnit(value, "B") : NONE;
}

/** @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** Times come as seconds since 1970 or as ISO text. @param {number | string | null | undefined} value */
export function date(value) {
  if (value === null || value === undefined || value === "") return null;
  if (typeof value === "number") return new Date(value * 1000);
  return new Date(/[zZ]|[+-]\d\d:?\d\d$/.test(value) ? value : `${value}Z`);
}

const NOTICEABLE = 10_000; // ms; less is the way of an answer
let ahead = 0; // ms that the server's clock is ahead of this browser's

/** What the server's clock showed when it answered: a header `Date`. @param {string | null} header */
export function setClock(header) {
  const difference = Date.parse(header ?? "") - Date.now();
  if (!Number.isNaN(difference)) ahead = Math.abs(difference) < NOTICEABLE ? 0 : difference;
}

/** Milliseconds since 1970 by the server's clock, which stored times are by. */
export function now() {
  return Date.now() + ahead;
}

/** @param {number | string | null | undefined} value */
export function ago(value, at = now()) {
  const when = date(value);
  if (!when) return NONE;
  const seconds = Math.max(0, (at - when.getTime()) / 1000);
  if (seconds < 10) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
}

/** @param {number | string | null | undefined} value */
export function exact(value) {
  const when = date(value);
  return when ? when.toLocaleString("sv-SE", { timeZoneName: "short" }) : "";
}

/** With a true minus sign. @param {string} text */
export function minus(text) {
  return text.replace("-", "−");
}

/** Text for one line of a list: invisible and direction-changing characters become visible. @param {string} text */
export function plain(text, limit = 400) {
  const cut = text.length > limit ? `${text.slice(0, limit)}…` : text;
  return cut.replace(/\r?\n/g, " ⏎ ").replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, code);
}

/** @param {string} character */
export function code(character) {
  return `⟨${(character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
}
