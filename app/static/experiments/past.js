// The experiments that have run or are running, one per row.
import { page } from "../lib/api.js";
import { h, link } from "../lib/dom.js";
import { ago, exact, integer, plain } from "../lib/format.js";
import { figure, missing, nameOf, ratio } from "./figures.js";

const HEADS = [
  ["Experiment"],
  ["Status"],
  ["Runs", "r"],
  ["", ""],
  ["Kind"],
  ["Seeds", "r"],
  ["Result"],
  ["Started", "r"],
];

/**
 * `outcomes`: id → what came out, of those that have finished and were read.
 * @param {ExperimentItem[]} items @param {Map<string, string>} outcomes
 */
export function pastTable(items, outcomes) {
  return h(
    "table",
    { class: "table exp-past", "aria-label": "Past runs" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        HEADS.map(([text, kind]) => h("th", { class: kind ?? "", scope: "col", text })),
      ),
    ),
    h(
      "tbody",
      {},
      items.map((item) => pastRow(item, outcomes.get(item.id))),
    ),
  );
}

/** @param {ExperimentItem} item @param {string | undefined} outcome */
function pastRow(item, outcome) {
  const share = item.total ? Math.min(1, item.done / item.total) : 0;
  const name = link(plain(item.title || item.name, 100), page("experiment", { id: item.id }), {
    title: item.id,
  });
  const [result, title, kind] = item.error_text
    ? [plain(item.error_text, 200), plain(item.error_text, 600), "bad-text"]
    : [outcome ?? "–", outcome ?? "", ""];
  return h(
    "tr",
    { "data-experiment": item.id },
    h("td", { class: "clip exp-name" }, name),
    h("td", {}, h("span", { class: `status ${item.status}`, text: item.status })),
    h("td", { class: "r", text: `${integer(item.done)} / ${integer(item.total)}` }),
    h(
      "td",
      { class: "run-bar" },
      h("span", { class: "progress" }, h("span", { style: { width: `${share * 100}%` } })),
    ),
    h("td", { class: "muted", text: item.quick ? "quick look" : "full" }),
    h("td", { class: "r", text: integer(item.seeds) }),
    h("td", { class: "clip exp-outcome", title }, h("span", { class: kind, text: result })),
    h("td", { class: "r", title: exact(item.created_at), text: ago(item.created_at) }),
  );
}

/**
 * The ratio of the first comparison, or the scores where no target is waited for.
 * @param {Experiment} experiment
 */
export function outcomeOf(experiment) {
  const [first] = experiment.comparisons;
  if (!first || !experiment.target)
    return `${whatOf(experiment)}: ${experiment.arms.map((arm) => `${nameOf(arm)} ${figure(arm.score, experiment.metric)}`).join(" · ")}`;
  const { steps, flops } = first.ratios;
  const label = plain(first.label, 120);
  if (missing(steps.value))
    return `target ${first.reached ? "reached before the first step" : "not reached by every seed"}, ${label}`;
  return `${ratio(steps)} the steps, ${ratio(flops)} the compute, ${label}`;
}

/** What the scores are of, as the table's column has it. @param {Experiment} experiment */
function whatOf({ columns, metric }) {
  return plain(columns.find((column) => column.metric === metric)?.label ?? metric, 60);
}
