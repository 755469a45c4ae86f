// The settings tried while tuning, and every run of an experiment with its link.

import { lineOf } from "../compare/chart.js";
import { MOST } from "../compare/controls.js";
import { page } from "../lib/api.js";
import { h, link } from "../lib/dom.js";
import { integer } from "../lib/format.js";
import { assignments, COSTS, figure, missing, nameOf, settings } from "./figures.js";

/** @param {Experiment} experiment */
export function shownOfTuning(experiment) {
  return experiment.arms.map((arm) => [arm.label, arm.choices, arm.chosen]);
}

/** @param {Experiment} experiment */
export function hasTuning(experiment) {
  return experiment.arms.some((arm) => arm.choices.length);
}

/** @param {Experiment} experiment */
export function tuningTable(experiment) {
  const rows = experiment.arms.map((arm, index) =>
    h(
      "tbody",
      {},
      arm.choices.map((choice, at) => choiceRow(arm, index, choice, at, experiment)),
    ),
  );
  /** @type {[string, string?][]} */
  const heads = [["Arm"], ["Setting"], ["Criterion", "r"], ["", "exp-mark"], ["Runs"], ["", "r"]];
  return table(
    "Tuning",
    heads,
    rows.filter((body) => body.firstChild),
  );
}

/**
 * @param {Arm} arm
 * @param {number} index
 * @param {TuningChoice} choice
 * @param {number} at
 * @param {Experiment} experiment
 */
function choiceRow(arm, index, choice, at, experiment) {
  const first =
    at === 0 &&
    h(
      "th",
      { class: "exp-arm", scope: "rowgroup", rowspan: arm.choices.length },
      lineOf(index),
      h("span", { text: nameOf(arm) }),
    );
  return h(
    "tr",
    { "data-choice": `${arm.name}/${at}`, class: choice.chosen ? "exp-chosen" : "" },
    first,
    h("td", { title: assignments(choice.choice), text: settings(choice.choice) }),
    h("td", { class: "r", text: figure(choice.criterion, experiment.metric) }),
    h("td", { class: "exp-mark" }, choice.chosen && h("span", { class: "tag good", text: "chosen" })),
    h("td", { class: "exp-runs" }, runLinks(choice.runs, experiment)),
    h("td", { class: "r" }, compareLink(choice.runs, `${nameOf(arm)}, ${settings(choice.choice)}`)),
  );
}

/** @param {Experiment} experiment */
export function shownOfRuns(experiment) {
  return experiment.arms.map((arm) => [arm.label, arm.chosen, arm.runs]);
}

/** @param {Experiment} experiment */
export function runTable(experiment) {
  const rows = experiment.arms.map((arm, index) =>
    h(
      "tr",
      { "data-runs": arm.name },
      h("td", { class: "exp-arm" }, lineOf(index), h("span", { text: nameOf(arm) })),
      h("td", {
        title: assignments(arm.chosen),
        text: arm.chosen && Object.keys(arm.chosen).length ? settings(arm.chosen) : "–",
      }),
      h(
        "td",
        { class: "exp-runs" },
        arm.runs.length ? runLinks(arm.runs, experiment) : h("span", { class: "muted", text: "none yet" }),
      ),
      h("td", { class: "r" }, compareLink(arm.runs, nameOf(arm))),
    ),
  );
  return table("Runs", [["Arm"], ["Setting"], ["Seed and final score"], ["", "r"]], h("tbody", {}, rows));
}

/** @param {string} label @param {[string, string?][]} heads @param {Child} rows */
function table(label, heads, rows) {
  const cells = heads.map(([text, kind]) => h("th", { class: kind ?? "", scope: "col", text }));
  return h(
    "table",
    { class: "table exp-detail", "aria-label": label },
    h("thead", {}, h("tr", {}, cells)),
    rows,
  );
}

/** @param {ExperimentRun[]} runs @param {Experiment} experiment */
function runLinks(runs, experiment) {
  const { metric } = experiment;
  return h(
    "ul",
    { class: "exp-links" },
    runs.map((run) =>
      h(
        "li",
        { class: run.status === "finished" ? "" : `status ${run.status}` },
        link(`seed ${run.seed}`, page("run", { id: run.id }), {
          title: runTitle(run, metric),
          "data-run": run.id,
        }),
        h("span", {
          class: "num muted",
          text: run.status === "finished" ? ` ${figure(run.score, metric)}` : ` ${progressOf(run)}`,
        }),
      ),
    ),
  );
}

/** @param {ExperimentRun} run */
function progressOf(run) {
  return run.status === "running" ? `${integer(run.step)} / ${integer(run.steps)}` : run.status;
}

/** @param {ExperimentRun} run @param {string} metric */
function runTitle(run, metric) {
  const lines = [`${run.status}, step ${integer(run.step)} of ${integer(run.steps)}`];
  if (!missing(run.score))
    lines.push(`${missing(run.start) ? "" : `${figure(run.start, metric)} → `}${figure(run.score, metric)}`);
  const { costs } = run;
  if (costs) {
    const parts = COSTS.map(
      ([axis, label, show]) => `${label.toLowerCase()} ${show(costs[axis === "steps" ? "step" : axis])}`,
    );
    lines.push(`target after ${parts.join(", ")}`);
  }
  return lines.join("\n");
}

/** @param {ExperimentRun[]} runs @param {string} label */
function compareLink(runs, label) {
  if (runs.length < 2) return null;
  const first = runs
    .slice(0, MOST)
    .map((run) => run.id)
    .join(",");
  const title = runs.length > MOST ? `Only the first ${MOST}` : "";
  return link("compare", page("compare", { runs: first }).replaceAll("%2C", ","), {
    title,
    "aria-label": `compare the runs of ${label}`,
  });
}
