// What the tour tells with: figures of one run, a wrong rollout of its start, the same prompt later.

import { get } from "../lib/api.js";
import { openRollout } from "../rollout/open.js";
import { alternativesAt, firstChoice } from "../rollout/panels/alternatives.js";

const CANDIDATES = 8; // wrong rollouts whose prompts are looked up later in the run
const OWN_KINDS = ["eval", "probe", "train"];

/**
 * → {run, steps, scores, wrong, after, token}; what is not there yet is null.
 * @param {string} id @param {Story | null | undefined} before
 */
export async function readStory(id, before) {
  const [run, steps, evaluations] = await Promise.all([
    get(`runs/${id}`),
    get(`runs/${id}/steps`),
    get(`runs/${id}/evaluations`),
  ]);
  const scores = evaluations.items.filter(
    (/** @type {Evaluation} */ item) => item.metric === "pass@1" && item.suite === run.score_suite,
  );
  const pair = before?.after && before.run.attempt === run.attempt ? before : await findPair(run);
  const same = before?.token && before.wrong?.id === pair.wrong?.id;
  const token = same ? before.token : pair.wrong && (await reddest(pair.wrong.id));
  const rest = await Promise.all([
    pair.wrong && openRollout(pair.wrong.id),
    pair.after && openRollout(pair.after.id),
  ]);
  return {
    run,
    steps: steps.columns,
    scores,
    wrong: pair.wrong,
    after: pair.after,
    token,
    wrongTokens: rest[0],
    afterTokens: rest[1],
  };
}

/**
 * The earliest wrong rollout with the worst token whose prompt is answered rightly later.
 * @param {Run} run
 */
async function findPair(run) {
  /** @type {Page<RolloutItem>} */
  const { items } = await get(`runs/${run.id}/rollouts`, { correct: "false", sort: "step", limit: 50 });
  const candidates = items.filter(
    (item) => OWN_KINDS.includes(item.kind) && !item.damaged && item.kl_max !== null,
  );
  const first = candidates
    .filter((item) => item.step === candidates[0]?.step)
    .sort((a, b) => (b.kl_max ?? 0) - (a.kl_max ?? 0));
  for (const wrong of first.slice(0, CANDIDATES)) {
    /** @type {Page<RolloutItem>} */
    const related = await get(`rollouts/${wrong.id}/related`);
    const later = related.items.filter(
      (item) =>
        item.right && item.step > wrong.step && OWN_KINDS.includes(item.kind) && item.author === "student",
    );
    const after = later.sort((a, b) => b.step - a.step || (a.id < b.id ? -1 : 1))[0];
    if (after) return { wrong, after };
  }
  return { wrong: first[0] ?? null, after: null };
}

/** The token with the highest reverse KL, and what the coach wanted there. @param {string} id */
async function reddest(id) {
  const rollout = await openRollout(id);
  const kl = rollout.columns.reverse_kl;
  if (!kl?.length) return null;
  const position = kl.reduce(
    (/** @type {number} */ best, /** @type {number} */ value, /** @type {number} */ at) =>
      value > kl[best] ? at : best,
    0,
  );
  const alternatives = rollout.meta.top_k ? await alternativesAt(rollout, position) : null;
  return {
    position,
    kl: kl[position],
    wrote: rollout.cells[position].raw,
    wanted: alternatives && firstChoice(alternatives),
    id: rollout.columns.completion_ids[position],
    student: Math.exp(rollout.columns.student_logprobs[position]),
    teacher: Math.exp(rollout.columns.teacher_logprobs[position]),
  };
}
