// The first page of a run's report: what was trained, how it went, and its worst rollouts.
import { page } from "../lib/api.js";
import { isTeachers, teacherScores, teacherText } from "../lib/charts/reference_lines.js";
import { metricOf } from "../lib/charts/run_metrics.js";
import { h } from "../lib/dom.js";
import {
  duration,
  exact,
  fixed,
  integer,
  nats,
  number,
  percent,
  plain,
  short,
  sum,
  withUnit,
} from "../lib/format.js";
import { verdictTag } from "../rollout/head.js";
import { glyphs } from "../rollout/text/glyphs.js";
import { WorstTokens } from "../rollouts/worst.js";
import { countsText } from "../run/counts.js";
import { Diagnosis } from "../run/diagnosis.js";
import { RunMarks } from "../run/marks.js";
import { endText, models } from "../runs/texts.js";
import { lineChart } from "./chart.js";

/** @param {ReportData} data */
export function runPage(data) {
  const worst = new WorstTokens(data.run.id);
  worst.refresh();
  return [
    head(data),
    data.diagnosis && diagnosis(data),
    charts(data),
    data.marks.length > 0 && marks(data),
    h("div", { class: "run-columns" }, rollouts(data), worst.element),
    details(data),
  ];
}

/** @param {ReportData} reportData */
function head({ run, steps }) {
  const kl = (steps.reverse_kl ?? []).filter((v) => v !== null);
  /** @param {string} value */
  const before = (value) => h("span", { class: "muted", text: `${value} → ` });
  const facts = [
    ["Student ← teacher", models(run)],
    ["KL, nats per token", kl.length ? [before(nats(kl[0])), nats(kl.at(-1))] : nats(run.kl)],
    [
      "Score",
      run.score === null
        ? "–"
        : [run.score_start !== null && before(percent(run.score_start)), percent(run.score)],
    ],
    ["Steps", `${integer(run.step)} of ${integer(run.steps)}`],
    ["Tokens", short(run.tokens)],
    ["Compute", run.flops ? withUnit(run.flops, "FLOP") : "–"],
    ["Time", run.seconds ? duration(run.seconds) : "–"],
    ["Objective", plain(run.objective ?? "–", 40)],
  ];
  return h(
    "header",
    { class: "run-head" },
    h(
      "div",
      { class: "page-bar" },
      h("h1", { text: plain(run.name || run.id, 80) }),
      h("span", { class: `status ${run.status}`, text: run.status }),
    ),
    h(
      "dl",
      { class: "figures run-facts" },
      facts.map(([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", {}, value))),
    ),
    run.end_reason && h("p", { class: "run-trained", text: endText(run) }),
    run.trained && h("p", { class: "muted run-trained", text: `Trained: ${plain(run.trained, 600)}.` }),
    run.notes && h("p", { class: "run-trained", text: plain(run.notes, 2000) }),
  );
}

/** @param {ReportData} reportData */
function diagnosis({ run }) {
  const cards = new Diagnosis(run.id);
  cards.refresh();
  return cards.element;
}

/** @param {ReportData} reportData */
function marks({ run }) {
  const list = new RunMarks(run.id);
  list.refresh();
  return list.element;
}

/** @param {ReportData} reportData */
function charts({ run, steps, evaluations }) {
  const scores = new Map();
  for (const e of evaluations) {
    if (e.metric === "finished" || isTeachers(e.metric)) continue; // the table of evaluations has it
    const name = `${e.suite} ${e.metric}`;
    if (!scores.has(name)) scores.set(name, { name: plain(name, 40), x: [], y: [] });
    scores.get(name).x.push(e.step);
    scores.get(name).y.push(e.value);
  }
  const kl = [{ name: "reverse KL", x: steps.step ?? [], y: steps.reverse_kl ?? [] }];
  const teachers = [...teacherScores(evaluations, "pass@1")];
  const levels = teachers.map(([suite, score]) => ({
    value: score.value,
    text: teacherText(score, "pass@1", teachers.length > 1 ? plain(suite, 24) : ""),
  }));
  const figures = [
    lineChart(metricOf("reverse_kl").label, metricOf("reverse_kl").unit, kl, number),
    lineChart("Score", "pass@1", [...scores.values()], percent, levels),
  ];
  const fewer = countsText(run.evaluation_prompts);
  return h(
    "div",
    {},
    h("div", { class: "report-charts" }, figures),
    fewer && h("p", { class: "caption", text: plain(fewer, 2000) }),
  );
}

/** @param {ReportData} reportData */
function rollouts({ rollouts: items, total, opens, marks }) {
  const note = `${integer(items.length)} of ${integer(total)}${opens ? "" : `, worst by KL sum${marks.length ? ", and those marked" : ""}`}`;
  const heads = [
    ["Step", "r"],
    ["KL sum", "r"],
    ["max", "r"],
    ["Tokens", "r"],
    ["", ""],
    ["Prompt and completion", ""],
  ];
  return h(
    "section",
    { class: "panel", id: "report-rollouts", "aria-label": "Rollouts" },
    h(
      "header",
      {},
      h("h2", { text: "Rollouts" }),
      h("span", { class: "spacer" }),
      h("span", { class: "muted num", text: note }),
    ),
    items.length === 0 && h("div", { class: "face", text: "This run stored no rollouts." }),
    items.length > 0 &&
      h(
        "table",
        { class: "table rollouts" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            heads.map(([text, kind]) => h("th", { class: kind, scope: "col", text })),
          ),
        ),
        h("tbody", {}, items.map(row)),
      ),
  );
}

/** @param {RolloutMeta} item @param {number} at */
function row(item, at) {
  const text = `${glyphs(item.prompt.slice(0, 200))}  ${glyphs(item.completion.slice(0, 300))}`;
  const href = page("rollout", { id: item.id, at });
  return h(
    "tr",
    { "data-rollout": item.id },
    h("td", { class: "r", text: integer(item.step) }),
    h("td", { class: "r", text: sum(item.kl_sum) }),
    h("td", { class: "r", text: fixed(item.kl_max, 2) }),
    h("td", { class: "r", text: integer(item.tokens) }),
    h("td", {}, verdictTag(item)),
    h("td", { class: "clip wide" }, h("a", { class: "text-link mono", href, text })),
  );
}

/** @param {ReportData} reportData */
function details({ yaml, evaluations, run }) {
  const versions = Object.entries(run.versions ?? {})
    .map(([name, version]) => `${name} ${version}`)
    .join(", ");
  return h(
    "div",
    { class: "report-details" },
    evaluations.length > 0 && h("details", {}, h("summary", { text: "Evaluations" }), table(evaluations)),
    yaml &&
      h(
        "details",
        {},
        h("summary", { text: "Configuration" }),
        h("pre", {
          class: "code",
          text: yaml
            .split("\n")
            .map((l) => plain(l, 2000))
            .join("\n"),
        }),
      ),
    h("p", {
      class: "muted",
      text: `Started ${exact(run.started_at ?? run.created_at)}. ${plain(versions, 600)}`,
    }),
  );
}

/** @param {Evaluation[]} evaluations */
function table(evaluations) {
  const heads = [
    ["Step", "r"],
    ["Suite", ""],
    ["Metric", ""],
    ["Value", "r"],
    ["± standard error", "r"],
    ["n", "r"],
  ];
  const rows = evaluations.map((e) => [
    integer(e.step),
    plain(e.suite, 60),
    plain(e.metric, 40),
    number(e.value),
    number(e.standard_error),
    integer(e.n),
  ]);
  return h(
    "table",
    { class: "table" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        heads.map(([text, kind]) => h("th", { class: kind, scope: "col", text })),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map((cells) =>
        h(
          "tr",
          {},
          cells.map((text, i) => h("td", { class: heads[i][1], text })),
        ),
      ),
    ),
  );
}
