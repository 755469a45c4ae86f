// What pages and reports say of a run.
import { h } from "../lib/dom.js";
import { integer, plain } from "../lib/format.js";

/** Why the run finished before its last step. @param {Run} run */
export function endText(run) {
  return `Ended after step ${integer(run.step)} of ${integer(run.steps)} by ${plain(run.end_reason, 300)}.`;
}

/** @param {Run} run */
export function models(run) {
  /** @param {string | null | undefined} text */
  const last = (text) => plain((text ?? "–").split("/").slice(-1)[0], 32);
  if (run.teacher === "none") return [last(run.student), h("span", { class: "muted", text: " no teacher" })];
  return [last(run.student), h("span", { class: "muted", text: " ← " }), last(run.teacher)];
}
