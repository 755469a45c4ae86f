// The tables of a comparison: the runs, what a threshold costs them, what differs.
import { page } from "../lib/api.js";
import { metricOf } from "../lib/charts/run_metrics.js";
import { button, h, link } from "../lib/dom.js";
import { bytes, duration, integer, number, percent, plain, short, withUnit } from "../lib/format.js";
import { swatch } from "./chart.js";

/** @type {Record<string, (value: number) => string>} */
const SHOWN = {
  step: (v) => (Number.isInteger(v) ? integer(v) : number(v, 4)),
  tokens: short,
  flops: (v) => withUnit(v, "FLOP"),
  seconds: duration,
};
/** @type {[string, string][]} */
const AXIS_HEADS = [
  ["step", "Steps"],
  ["tokens", "Tokens"],
  ["flops", "Compute"],
  ["seconds", "Time"],
];
const CHEAPER = "Cost relative to the baseline; below 1 is cheaper";
const EXCLUDED =
  "Training time: sampling, teacher, student, optimizer and storage. Excludes waiting, loading and evaluation.";

/** @param {string} label @param {Head[]} heads @param {Child} rows */
function table(label, heads, rows) {
  const cells = heads.map(([text, kind, title]) => h("th", { class: kind ?? "", scope: "col", title }, text));
  return h(
    "table",
    { class: "table", "aria-label": label },
    h("thead", {}, h("tr", {}, cells)),
    h("tbody", {}, rows),
  );
}

/** @param {Run} run @param {number} index */
function nameCell(run, index) {
  return h(
    "td",
    { class: "cmp-name" },
    swatch(index),
    link(plain(run.name || run.id, 60), page("run", { id: run.id })),
  );
}

/** @param {Comparison} comparison @param {(id: string) => unknown} remove */
export function runTable(comparison, remove) {
  /** @type {Head[]} */
  const heads = [
    ["Run"],
    ["Status"],
    ["Objective"],
    ["Seed", "r"],
    ["Steps", "r"],
    ["Tokens", "r"],
    ["Compute", "r"],
    ["Training time", "r", EXCLUDED],
    ["Records", "r", "Rollouts and tokens in the database"],
    ["Disk", "r", "Files in the run’s folder: checkpoints, log"],
    [""],
  ];
  const rows = comparison.runs.map((run, index) =>
    h(
      "tr",
      { "data-compared": run.id },
      nameCell(run, index),
      h("td", {}, h("span", { class: `status ${run.status}`, text: run.status })),
      h("td", { class: "muted", text: plain(run.objective, 40) }),
      h("td", { class: "r", text: String(run.seed) }),
      h("td", { class: "r", text: `${integer(run.step)} / ${integer(run.steps)}` }),
      h("td", { class: "r", title: integer(run.tokens), text: short(run.tokens) }),
      h("td", { class: "r", text: withUnit(run.flops, "FLOP") }),
      h("td", { class: "r", text: duration(run.training_seconds) }),
      h("td", { class: "r", text: bytes(run.bytes) }),
      h("td", { class: "r", title: diskTitle(run.disk), text: bytes(run.disk.files) }),
      h(
        "td",
        { class: "r" },
        button("Remove", () => remove(run.id), {
          class: "btn small quiet",
          "aria-label": `Remove ${plain(run.name || run.id, 60)}`,
        }),
      ),
    ),
  );
  return table("Runs compared", heads, rows);
}

/** @param {Disk} disk */
function diskTitle(disk) {
  return disk ? `checkpoints ${bytes(disk.checkpoints)}, log and other files ${bytes(disk.other)}` : "";
}

/** @param {Comparison} comparison @param {CompareState} state @param {(id: string) => unknown} choose */
export function reachTable(comparison, state, choose) {
  const { reach } = comparison;
  if (reach.target === null)
    return h(
      "div",
      { class: "face" },
      h("strong", { text: "No threshold" }),
      h("p", { text: `No run has measured ${metricOf(reach.metric).label} yet.` }),
    );
  /** @type {Head[]} */
  const heads = [
    ["Run"],
    ["Best", "r"],
    ...AXIS_HEADS.map(
      ([key, text]) => /** @type {Head} */ ([text, "r", key === "seconds" ? EXCLUDED : undefined]),
    ),
    ...AXIS_HEADS.map(([, text]) => /** @type {Head} */ ([`× ${text.toLowerCase()}`, "r", CHEAPER])),
    ["Baseline"],
  ];
  const value = formatOf(reach.metric);
  const rows = reach.items.map((item, index) => reachRow(item, { comparison, index, value, choose }));
  const groups = state.group === "1" ? reach.groups.filter((group) => group.n > 1) : [];
  return [
    h("p", { class: "caption", id: "cmp-said", text: said(reach, value) }),
    table("Cost to reach the threshold", heads, [
      ...rows,
      ...groups.map((group) => groupRow(group, comparison)),
    ]),
  ];
}

/**
 * @param {ReachItem} item
 * @param {{comparison: Comparison, index: number, value: (value: Value) => string, choose: (id: string) => unknown}} options
 */
function reachRow(item, { comparison, index, value, choose }) {
  const run = comparison.runs[index];
  const baseline = comparison.reach.baseline === item.run;
  const radio = h("input", {
    type: "radio",
    name: "baseline",
    "aria-label": `Use ${plain(run.name || run.id, 60)} as baseline`,
    onchange: () => choose(item.run),
  });
  radio.checked = baseline;
  const costs = item.reached
    ? AXIS_HEADS.map(([axis]) =>
        h("td", {
          class: "r",
          "data-axis": axis,
          title: String(item.costs[axis]),
          text: SHOWN[axis](item.costs[axis]),
        }),
      )
    : h("td", { colspan: "4", class: "muted cmp-never", text: "not reached" });
  return h(
    "tr",
    { "data-reach": item.run },
    nameCell(run, index),
    h("td", { class: "r", text: value(item.best) }),
    costs,
    AXIS_HEADS.map(([axis]) =>
      h("td", {
        class: "r",
        "data-ratio": axis,
        text: item.ratio[axis] === null ? "–" : `${number(item.ratio[axis])}×`,
      }),
    ),
    h("td", {}, radio),
  );
}

/** @param {ReachGroup} group @param {Comparison} comparison */
function groupRow(group, comparison) {
  const letters = group.runs
    .map((id) => String.fromCharCode(65 + comparison.runs.findIndex((run) => run.id === id)))
    .join(", ");
  const { costs: mean } = group;
  const costs = mean
    ? AXIS_HEADS.map(([axis]) => h("td", { class: "r", text: SHOWN[axis](mean[axis]) }))
    : h("td", { colspan: "4", class: "muted cmp-never", text: "not reached" });
  return h(
    "tr",
    { class: "cmp-group" },
    h("td", { text: `Mean of ${letters}: ${group.reached} of ${group.n} reach it` }),
    h("td"),
    costs,
    h("td", { colspan: "5" }),
  );
}

/** @param {Reach} reach @param {(value: Value) => string} value */
function said(reach, value) {
  const sign = reach.direction === "at_least" ? "≥" : "≤";
  const worst =
    reach.direction === "at_least"
      ? "the lowest of the runs’ best values"
      : "the highest of the runs’ lowest values";
  const chosen = reach.chosen === "common" ? `, ${worst}` : "";
  const point = reach.interpolated
    ? "linearly interpolated between measured points"
    : "at the first measured point that reaches it, unsmoothed";
  const { label, unit } = metricOf(reach.metric);
  return `${[label, unit].filter(Boolean).join(", ")} ${sign} ${value(reach.target)}${chosen}; ${point}. × is cost relative to the baseline.`;
}

/** @param {string} metric @returns {(value: Value) => string} */
function formatOf(metric) {
  return metricOf(metric).share ? (v) => percent(v, 1) : (v) => number(v, 4);
}

/** @param {Comparison} comparison */
export function differenceTable(comparison) {
  const { fields, equal } = comparison.differences;
  const rest = `${integer(equal)} equal ${equal === 1 ? "field" : "fields"}`;
  if (!fields.length)
    return h(
      "div",
      { class: "face" },
      h("strong", { text: comparison.runs.length > 1 ? "No differences" : "Only one run" }),
      h("p", { text: `${rest}.` }),
    );
  /** @type {Head[]} */
  const heads = [
    ["Field"],
    ...comparison.runs.map(
      (run, index) => /** @type {Head} */ ([[swatch(index), plain(run.name || run.id, 32)]]),
    ),
  ];
  const rows = fields.map(({ field, values }) =>
    h(
      "tr",
      { "data-field": field },
      h("td", { class: "mono", text: plain(field, 120) }),
      comparison.runs.map((run) => h("td", { class: "cmp-value", text: valueText(values[run.id]) })),
    ),
  );
  return [table("Differences", heads, rows), h("p", { class: "caption", text: `Not shown: ${rest}.` })];
}

/** @param {unknown} value */
function valueText(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") return plain(String(Number(value.toPrecision(6))));
  return plain(typeof value === "string" ? value || "“”" : JSON.stringify(value), 200);
}
