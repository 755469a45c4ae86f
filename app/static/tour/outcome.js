// What a run's figures allow to be said: whether the score rose, fell, or neither beyond its error.

import { isLive } from "../lib/format.js";

const ERRORS = 2; // standard errors of the difference that a change must exceed

/**
 * From the first evaluation to the last one. `none`: no evaluation; `first`: only one so far.
 * @param {Evaluation[]} scores pass@1 by step @returns {"none" | "first" | "rose" | "fell" | "unchanged"}
 */
export function outcomeOf(scores) {
  const [first, last] = [scores[0], scores.at(-1)];
  if (!first || !last || first.value === null || last.value === null) return "none";
  if (first.step === last.step) return "first";
  const difference = last.value - first.value;
  const error = Math.hypot(errorOf(first), errorOf(last));
  if (difference === 0 || Math.abs(difference) <= ERRORS * error) return "unchanged";
  return difference > 0 ? "rose" : "fell";
}

/** @param {Evaluation} score */
function errorOf({ value, n, standard_error: error }) {
  return error ?? Math.sqrt((value * (1 - value)) / Math.max(1, n));
}

/** The headline of the training. @param {Evaluation[]} scores @param {Run} run */
export function headlineOf(scores, run) {
  const far = isLive(run.status) ? " so far" : "";
  return {
    rose: "Training closes the gap",
    unchanged: `The score has not changed${far}`,
    fell: `The score has fallen${far}`,
    first: isLive(run.status) ? "Training is under way" : "The score was measured only at the start",
    none: isLive(run.status) ? "Training is under way" : "This run has no score",
  }[outcomeOf(scores)];
}

/** How far a change of the score is to be believed. @param {Evaluation[]} scores */
export function beliefOf(scores) {
  return {
    rose: "The change of the score is larger than chance explains (more than two standard errors).",
    unchanged: "The change of the score is within what chance explains (two standard errors).",
    fell: "The score has fallen by more than chance explains (two standard errors).",
    first: "",
    none: "",
  }[outcomeOf(scores)];
}

/** What can be said of one answer that became right. @param {Evaluation[]} scores */
export function learntOf(scores) {
  if (outcomeOf(scores) === "rose")
    return "Nobody told the student the right answer. It learned from the coach’s judgement of its own words.";
  return "Here a later answer is right. One answer may be chance: the run’s score shows no gain, so it does not say that the student has learned this.";
}

/** @param {Run} run */
export function spentOf(run) {
  if (isLive(run.status)) return "So far the run has taken ";
  if (run.status === "finished") return "The whole run took ";
  return run.status === "failed"
    ? "Until it failed, the run took "
    : `Until it was ${run.status}, the run took `;
}

/** Which way a quantity went, from its first value to its last. @param {number} first @param {number} last */
export function wayOf(first, last) {
  if (first === last) return "stayed at";
  return last < first ? "fell from" : "rose from";
}
