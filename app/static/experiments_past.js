// The experiments that were run or are running, a line each.
import { page } from "./api.js";
import { h, link } from "./dom.js";
import { figure, missing, ratio } from "./experiment_figures.js";
import { ago, exact, integer, plain } from "./format.js";

const HEADS = [["Experiment"], ["Status"], ["Runs", "r"], ["", ""], ["Kind"], ["Seeds", "r"], ["Result"], ["Started", "r"]];

/** `outcomes`: id → what came out, of those that have finished and were read. */
export function pastTable(items, outcomes) {
  return h(
    "table", { class: "table exp-past", "aria-label": "Experiments run" },
    h("thead", {}, h("tr", {}, HEADS.map(([text, kind]) => h("th", { class: kind ?? "", scope: "col", text })))),
    h("tbody", {}, items.map((item) => pastRow(item, outcomes.get(item.id)))),
  );
}

function pastRow(item, outcome) {
  const share = item.total ? Math.min(1, item.done / item.total) : 0;
  const name = link(plain(item.title || item.name, 100), page("experiment", { id: item.id }), { title: item.id });
  const problem = item.error_text && h("span", { class: "note bad-text", title: plain(item.error_text, 600), text: plain(item.error_text, 60) });
  return h(
    "tr", { "data-experiment": item.id }, h("td", { class: "clip exp-name" }, name, problem),
    h("td", {}, h("span", { class: `status ${item.status}`, text: item.status })),
    h("td", { class: "r", text: `${integer(item.done)} / ${integer(item.total)}` }),
    h("td", { class: "run-bar" }, h("span", { class: "progress" }, h("span", { style: { width: `${share * 100}%` } }))),
    h("td", { class: "muted", text: item.quick ? "quick look" : "full" }), h("td", { class: "r", text: integer(item.seeds) }),
    h("td", { class: "clip exp-outcome", title: outcome ?? "", text: outcome ?? "–" }),
    h("td", { class: "r", title: exact(item.created_at), text: ago(item.created_at) }),
  );
}

/** The ratio of the first comparison, or the scores where nothing is compared. */
export function outcomeOf(found) {
  const [first] = found.comparisons;
  if (!first) return found.arms.map((arm) => `${plain(arm.label, 60)} ${figure(arm.score, found.metric)}`).join(", ");
  const { steps, flops } = first.ratios;
  const label = plain(first.label, 120);
  if (missing(steps.value)) return `target not reached by every seed, ${label}`;
  return `${ratio(steps)} the steps, ${ratio(flops)} the compute, ${label}`;
}
