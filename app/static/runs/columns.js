// The columns of the table of runs: those of the first sight, and what somebody has chosen.
import { h, link } from "../lib/dom.js";
import {
  ago,
  bytes,
  duration,
  exact,
  integer,
  nats,
  number,
  percent,
  plain,
  short,
  withUnit,
} from "../lib/format.js";
import { models } from "./texts.js";

/** Those that are drawn in a way of their own; the first sight's, in its order. @type {ColumnView[]} */
const BUILT_IN = [
  {
    ...{ id: "recipe", label: "Recipe", sort: "recipe" },
    cells: (run) => [h("td", { class: "muted", text: plain(run.recipe_label || "–", 40) })],
  },
  {
    ...{ id: "models", label: "Student ← teacher", sort: "student" },
    cells: (run) => [
      h(
        "td",
        {
          class: "clip models",
          title: `${plain(run.student ?? "", 200)} ← ${plain(run.teacher ?? "", 200)}`,
        },
        models(run),
      ),
    ],
  },
  {
    ...{ id: "step", label: "Step", sort: "step", number: true, high: true, span: 2 },
    cells: (run) => [
      h("td", { class: "r", text: `${integer(run.step ?? 0)} / ${integer(run.steps)}` }),
      h("td", { class: "run-bar" }, progress(run)),
    ],
  },
  {
    ...{ id: "kl", label: "KL, nats per token", sort: "kl", number: true },
    cells: (run) => [h("td", { class: "r", text: nats(run.kl) })],
    text: nats,
  },
  {
    ...{ id: "score", label: "Score", sort: "score", number: true, high: true },
    cells: (run) => [h("td", { class: "r", title: "before training → latest evaluation" }, score(run))],
    text: (value) => percent(value, 1),
  },
  {
    ...{ id: "tokens", label: "Tokens", sort: "tokens", number: true, high: true },
    cells: (run) => [h("td", { class: "r", title: integer(run.tokens), text: short(run.tokens) })],
    text: short,
  },
  {
    ...{ id: "seconds", label: "Time", sort: "seconds", number: true, high: true },
    cells: (run) => [h("td", { class: "r", text: duration(run.seconds) })],
    text: duration,
  },
  {
    ...{ id: "disk", label: "Disk", sort: "", number: true },
    cells: (run) => [h("td", { class: "r", title: diskTitle(run), text: bytes(diskOf(run)) })],
  },
  {
    ...{ id: "created_at", label: "Created", sort: "created_at", number: true, high: true },
    cells: (run) => [h("td", { class: "r", title: exact(run.created_at), text: ago(run.created_at) })],
  },
];
export const FIRST_SIGHT = BUILT_IN.map((column) => column.id);
/** Those of the first sight of runs of several people or hosts, in the place of others. @type {ColumnView[]} */
const OF_SEVERAL = [
  {
    ...{ id: "started_by", label: "Started by", sort: "started_by" },
    cells: (run) => [narrowing("started_by", run.started_by)],
  },
  {
    ...{ id: "host", label: "Host", sort: "host" },
    cells: (run) => [narrowing("host", run.host)],
  },
];
/** @type {Record<string, string>} */
const IN_PLACE = { recipe: "started_by", disk: "host" };
/** Columns that the page makes of several facts: the server knows none of these names. */
export const PAGE_ONLY = { models: "Student ← teacher", disk: "Disk" };

/** The ids of an address; none: those of the first sight. @param {string} text */
export function idsOf(text) {
  const ids = text.split(",").map((id) => id.trim());
  return [...new Set(ids.filter(Boolean))];
}

/** What the server is asked for. @param {string[]} ids */
export function askedOf(ids) {
  return ids.filter((id) => !(id in PAGE_ONLY)).join(",");
}

/**
 * The columns of a table, in the order of `ids`, or those of the first sight.
 * @param {string[]} ids @param {RunColumn[]} described those of the answer @param {Run[]} items
 * @param {string[]} several of which the runs of the page are: `started_by`, `host`
 * @returns {ColumnView[]}
 */
export function columnsOf(ids, described, items, several = []) {
  /** @param {string} id */
  const builtIn = (id) => [...BUILT_IN, ...OF_SEVERAL].find((column) => column.id === id);
  const first = FIRST_SIGHT.map((id) => (several.includes(IN_PLACE[id]) ? IN_PLACE[id] : id));
  const chosen = ids.length ? ids : first;
  return chosen.flatMap((id) => {
    const column = described.find((one) => one.id === id);
    return builtIn(id) ?? (column ? [viewOf(column, items)] : []);
  });
}

/** A value that leads to the runs that have it. @param {string} name @param {string | null} value */
function narrowing(name, value) {
  if (!value) return h("td", { class: "muted", text: "–" });
  const query = new URLSearchParams(location.search);
  query.delete("offset");
  query.set(name, value);
  return h("td", { class: "whose" }, link(plain(value, 40), `./?${query}`, { title: plain(value, 200) }));
}

/** @param {RunColumn} column @param {Run[]} items @returns {ColumnView} */
function viewOf(column, items) {
  const first = items.map((run) => run.columns?.[column.id]).find((value) => value !== null);
  const numbers = typeof first === "number" || column.kind === "metric";
  return {
    id: column.id,
    label: shortLabel(column),
    title: [column.id, column.unit, column.help].filter(Boolean).join(" · "),
    sort: column.id,
    number: numbers,
    high: column.goal ? column.goal === "high" : numbers && column.kind !== "setting",
    cells: (run) => [valueCell(column, run.columns?.[column.id], numbers)],
    text: column.kind === "setting" ? undefined : (value) => valueText(column, value),
  };
}

/** @param {RunColumn} column @param {unknown} value @param {boolean} numbers */
function valueCell(column, value, numbers) {
  const text = valueText(column, value);
  const whole = column.unit === "time" ? exact(/** @type {number} */ (value)) : wholeText(value);
  return h("td", { class: numbers ? "r" : "chosen", title: whole === text ? "" : whole, text });
}

/** @param {RunColumn} column @param {unknown} value */
export function valueText(column, value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number" || column.kind === "setting") return plain(wholeText(value), 60);
  if (column.share) return percent(value, 1);
  if (column.unit === "time") return ago(value);
  if (column.unit === "seconds") return duration(value);
  if (column.unit.startsWith("bytes")) return bytes(value);
  if (column.unit === "FLOP") return withUnit(value, "FLOP");
  return Number.isInteger(value) ? integer(value) : number(value, 4);
}

/** @param {unknown} value */
function wholeText(value) {
  if (value === null || value === undefined) return "";
  if (value === "") return '""';
  const simple = Array.isArray(value) && value.every((part) => typeof part !== "object");
  if (simple) return value.length ? plain(value.join(", "), 2000) : "[]";
  return plain(typeof value === "object" ? JSON.stringify(value) : String(value), 2000);
}

/** The last two names of a setting's path: `optimizer.learning_rate`. @param {RunColumn} column */
export function shortLabel(column) {
  if (column.kind !== "setting") return plain(column.label, 60);
  return plain(column.id.split(".").slice(-2).join("."), 60);
}

/** @param {Run} run */
function progress(run) {
  const share = run.steps ? Math.min(1, (run.step ?? 0) / run.steps) : 0;
  return h(
    "span",
    { class: "progress", title: percent(share) },
    h("span", { style: { width: `${share * 100}%` } }),
  );
}

/** @param {Run} run */
function diskOf(run) {
  return (run.bytes ?? 0) + (run.disk?.files ?? 0);
}

/** @param {Run} run */
export function diskTitle(run) {
  const { checkpoints = 0, other = 0 } = run.disk ?? {};
  return `records ${bytes(run.bytes)}, checkpoints ${bytes(checkpoints)}, log and other files ${bytes(other)}`;
}

/** @param {Run} run */
function score(run) {
  if (run.score === null || run.score === undefined) return "–";
  if (run.score_start === null || run.score_start === undefined) return percent(run.score);
  return [h("span", { class: "muted", text: `${percent(run.score_start)} → ` }), percent(run.score)];
}
