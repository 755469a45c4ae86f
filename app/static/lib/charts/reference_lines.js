// Level lines of a chart: a threshold, what the teacher itself reaches.
import { integer, number, percent } from "../format.js";
import { isDark } from "../theme.js";
import { metricOf } from "./run_metrics.js";

const TEACHER = "teacher_"; // before the names of what the teacher itself reached, in its suite

/**
 * @param {number} y @param {string} text
 * @param {{dash?: string, color?: string, at?: "start" | "end", above?: boolean}} [options] above:
 *   the text stands above the line even near 1, where the axis leaves room for it
 */
export function levelLine(
  y,
  text,
  { dash = "dot", color = isDark() ? "#a0a5ad" : "#5d6066", at = "start", above = false } = {},
) {
  return {
    type: "line",
    xref: "paper",
    x0: 0,
    x1: 1,
    y0: y,
    y1: y,
    line: { color, width: 1, dash },
    label: {
      text,
      textposition: at,
      yanchor: y > 0.9 && y <= 1 && !above ? "top" : "bottom",
      font: { color, size: 11 },
    },
  };
}

/** @param {TeacherScore} score @param {string} metric @param {string} [of] names whose teacher */
export function teacherText({ value, n }, metric, of = "") {
  return `${["teacher", of].filter(Boolean).join(" ")} ${level(value, metric)} (n = ${integer(n)})`;
}

/**
 * The teachers' own scores as lines of one chart. Several stand so near each other that one text
 * names all of them, in the order of the chart's legend.
 * @param {Map<string, TeacherScore>} scores by suite @param {string} metric
 */
export function teacherLevels(scores, metric) {
  const all = [...scores.values()];
  const values = all.map((score) => score.value);
  const top = values.indexOf(Math.max(...values));
  const shown = all.map((score) => level(score.value, metric)).join("  ·  ");
  const text = all.length > 1 ? `teacher ${shown} (n = ${integer(all[0].n)})` : "";
  return all.map((score, index) =>
    levelLine(score.value, all.length === 1 ? teacherText(score, metric) : index === top ? text : "", {
      dash: "dash",
      above: true,
    }),
  );
}

/** @param {number} value @param {string} metric */
function level(value, metric) {
  return metricOf(metric).share ? percent(value, 1).replace(".0%", "%") : number(value);
}

/**
 * The teachers' own scores among a run's evaluations, by the suite of the student's.
 * @param {Evaluation[]} evaluations @param {string} metric @returns {Map<string, TeacherScore>}
 */
export function teacherScores(evaluations, metric) {
  const scores = evaluations.filter((e) => e.metric === `${TEACHER}${metric}` && e.value !== null);
  return new Map(scores.map((e) => [e.suite, e]));
}

/** Whether a figure of an evaluation is the teacher's own. @param {string} metric */
export function isTeachers(metric) {
  return metric.startsWith(TEACHER);
}
