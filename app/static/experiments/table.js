// The result of an experiment: a row an arm, and below it the ratios between arms.
import { lineOf } from "../compare/chart.js";
import { h } from "../lib/dom.js";
import { integer, plain } from "../lib/format.js";
import { bare, COSTS, figure, figureBetween, missing, nameOf, ratio, seeds } from "./figures.js";

/**
 * Everything that the table shows, for telling whether it has changed: no step of a run is.
 * @param {Experiment} experiment
 */
export function shownInTable(experiment) {
  const arms = experiment.arms.map(({ curve, choices, runs, ...rest }) => [
    rest,
    runs.map((run) => [run.seed, run.status, run.costs]),
  ]);
  return [
    experiment.status === "finished",
    experiment.target,
    experiment.columns,
    experiment.comparisons,
    experiment.seeds,
    experiment.table,
    arms,
  ];
}

/** @param {Experiment} experiment */
export function resultTable(experiment) {
  const main = experiment.columns.some((column) => column.metric === experiment.metric);
  const columns = main ? experiment.columns : [{ metric: "", label: "Score" }, ...experiment.columns];
  const priced = Boolean(experiment.target);
  const heads = [
    ["Arm"],
    ["Seeds", "r", "Finished seeds"],
    ...columns.map((column) => [plain(column.label, 60), "r", columnTitle(column, experiment)]),
    ...(priced ? COSTS.map(([, label]) => [label, "r", "Cost to reach the target: mean over seeds"]) : []),
  ];
  const start = experiment.table.find((row) => row.arm === "start");
  const rows = [
    start && startRow(start, columns, experiment),
    experiment.arms.map((arm, index) => armRow(arm, index, columns, experiment)),
  ];
  const ratios = priced ? experiment.comparisons.map((one) => ratioRow(one, columns.length, experiment)) : [];
  return [
    h(
      "table",
      { class: "table exp-results", "aria-label": "Result" },
      h(
        "thead",
        {},
        priced && groupHeads(columns.length),
        h(
          "tr",
          {},
          heads.map(([text, kind, title]) => h("th", { class: kind ?? "", scope: "col", title }, text)),
        ),
      ),
      h("tbody", {}, rows),
      ratios.length > 0 && h("tbody", { class: "exp-ratios" }, ratios),
    ),
    h("p", { class: "caption", id: "exp-said", text: said(experiment) }),
  ];
}

/** @param {number} columns */
function groupHeads(columns) {
  return h(
    "tr",
    { class: "exp-groups" },
    h("td", { colspan: 2 }),
    h("th", { class: "r", scope: "colgroup", colspan: columns }, h("span", { text: "After the last step" })),
    h(
      "th",
      { class: "r", scope: "colgroup", colspan: COSTS.length },
      h("span", { text: "To reach the target" }),
    ),
  );
}

/** @param {ResultColumn} column @param {Experiment} experiment */
function columnTitle(column, experiment) {
  return `${plain(column.metric || experiment.metric, 200)}, mean over seeds (95% interval)`;
}

/** @param {Arm} arm @param {number} index @param {ResultColumn[]} columns @param {Experiment} experiment */
function armRow(arm, index, columns, experiment) {
  const label = h(
    "td",
    { class: "exp-arm", title: plain(arm.note ?? "", 400) },
    lineOf(index),
    h("span", { text: nameOf(arm) }),
  );
  const cells = columns.map(({ metric }) => scoreCell(arm, metric, experiment));
  return h(
    "tr",
    { "data-arm": arm.name },
    label,
    h("td", { class: "r", text: `${integer(arm.n)} / ${integer(experiment.seeds)}` }),
    cells,
    experiment.target && costCells(arm, experiment),
  );
}

/** @param {Arm} arm @param {string} metric @param {Experiment} experiment */
function scoreCell(arm, metric, experiment) {
  const cell = metric ? arm.cells[metric] : { value: arm.score, low: arm.low, high: arm.high };
  if (!cell || missing(cell.value)) return h("td", { class: "r muted", text: "–" });
  const shown = metric || experiment.metric;
  const title = missing(cell.start) ? "" : `before training: ${figure(cell.start, shown)}`;
  return h("td", { class: "r", "data-cell": metric || "score", title }, spread(figureBetween(cell, shown)));
}

/**
 * What every arm's training started from, where the experiment measures more than one thing.
 * @param {StartRow} start @param {ResultColumn[]} columns @param {Experiment} experiment
 */
function startRow(start, columns, experiment) {
  /** @param {string} metric */
  const value = (metric) => (metric ? start.cells[metric]?.value : start.score);
  const cells = columns.map(({ metric }) =>
    h("td", {
      class: "r",
      "data-cell": metric || "score",
      text: figure(value(metric), metric || experiment.metric),
    }),
  );
  return h(
    "tr",
    { "data-arm": "start", class: "exp-from" },
    h("td", { class: "exp-arm" }, h("span", { class: "exp-gap" }), h("span", { text: nameOf(start) })),
    h("td"),
    cells,
    experiment.target && h("td", { colspan: COSTS.length }),
  );
}

/** The interval is fainter than its figure. @param {string} text */
function spread(text) {
  const [value, interval] = text.split(" (");
  return interval ? [value, h("span", { class: "muted exp-interval", text: ` (${interval}` })] : value;
}

/** @param {Arm} arm @param {Experiment} experiment */
function costCells(arm, experiment) {
  if (!missing(arm.steps_to_target)) {
    return COSTS.map(([axis, , show]) => {
      const value = arm[`${axis}_to_target`];
      return h("td", {
        class: "r",
        "data-cost": axis,
        title: missing(value) ? "" : String(value),
        text: show(value),
      });
    });
  }
  const { missed, judged } = misses(arm, experiment);
  if (!missed) return COSTS.map(([axis]) => h("td", { class: "r", "data-cost": axis, text: "–" }));
  const text = missed < judged ? `not reached by ${integer(missed)} of ${seeds(judged)}` : "not reached";
  return h("td", { class: "cmp-never exp-never", colspan: COSTS.length, text });
}

/**
 * Of the runs that ended and whose target is known: how many there are, and how many missed it.
 * @param {Arm} arm @param {Experiment} experiment
 */
function misses(arm, { target }) {
  const withTarget = new Set(target?.values.map((one) => one.seed));
  const judged = arm.runs.filter((run) => run.status === "finished" && withTarget.has(run.seed));
  return { judged: judged.length, missed: judged.filter((run) => !run.costs).length };
}

/** @param {ArmComparison} one @param {number} columns @param {Experiment} experiment */
function ratioRow(one, columns, experiment) {
  const none = experiment.status === "finished" && missing(one.ratios.steps?.value);
  const note = plain(one.note ?? "", 400);
  const label = h(
    "td",
    { class: "exp-ratio", colspan: 2 + columns },
    h("span", { text: plain(one.label, 210) }),
    note && h("span", { class: "muted exp-note", text: note }),
  );
  const cells = none
    ? h("td", {
        class: "cmp-never exp-never",
        colspan: COSTS.length,
        text: `no ratio: ${one.reached ? "target reached before the first step" : "target not reached by every seed of both arms"}`,
      })
    : COSTS.map(([axis]) => ratioCell(axis, one));
  return h("tr", { "data-comparison": `${one.over}/${one.under}` }, label, cells);
}

/** @param {string} axis @param {ArmComparison} armComparison */
function ratioCell(axis, { reached, ratios }) {
  const value = ratios[axis];
  const why = reached ? "Not measured separately" : "Available once both arms reach the target";
  if (missing(value?.value)) return h("td", { class: "r", "data-ratio": axis, title: why, text: "–" });
  return h("td", { class: "r exp-strong", "data-ratio": axis }, spread(ratio(value)));
}

/** @param {Experiment} experiment */
function said(experiment) {
  const parts = [];
  if (experiment.target)
    parts.push(`Target: ${plain(experiment.target.text, 400)}${targetValue(experiment)}.`);
  if (experiment.arms.some((arm) => !missing(arm.low)))
    parts.push("In parentheses: 95% bootstrap interval of the mean over seeds.");
  if (experiment.target && experiment.comparisons.length)
    parts.push("×: cost of the first arm relative to the second.");
  return parts.join(" ");
}

/** @param {Experiment} experiment */
function targetValue({ target }) {
  const values = (target?.values ?? []).map((one) => one.value).filter((value) => value !== null);
  if (!values.length) return "";
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const most = figure(high, target?.metric ?? "");
  return low === high ? ` (${most})` : ` (${bare(low, target?.metric ?? "")}–${most} by seed)`;
}
