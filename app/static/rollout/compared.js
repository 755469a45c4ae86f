// The other rollout of a comparison: fetched, and how far it has the same tokens.
import { openRollout } from "./open.js";
import { sharedStart } from "./text/difference.js";
import { withMetric } from "./text/tinting.js";

/**
 * → null without an id, else {id, other, common, problem}: the rollout or null, how many tokens from
 * the start both completions share, and why the two cannot be compared, or "".
 * @returns {Promise<Compared | null>}
 * @param {string | null} id @param {Rollout} rollout @param {Metric} metric
 */
export async function comparedWith(id, rollout, metric) {
  if (!id) return null;
  try {
    const other = await withMetric(await openRollout(id), metric);
    const [one, two] = [rollout.promptIds, other.promptIds];
    if (one.length !== two.length || sharedStart(one, two) !== one.length)
      return without(id, "These rollouts have different prompts, so their tokens cannot be compared.");
    const common = sharedStart(rollout.columns.completion_ids, other.columns.completion_ids);
    return Object.freeze({ id, other, common, problem: "" });
  } catch (error) {
    return without(id, `Cannot be compared: ${error.message}.`);
  }
}

/** @param {string} id @param {string} problem */
function without(id, problem) {
  return Object.freeze({ id, other: null, common: 0, problem });
}

/**
 * Whether the other rollout has the very same completion, so that one text shows both.
 * @param {Rollout} rollout @param {Pick<Compared, "other" | "common">} options
 */
export function sameCompletion(rollout, { other, common }) {
  return other !== null && common === rollout.n && common === other.n;
}
