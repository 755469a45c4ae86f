// What both models would rather have written at a token: fetched when a token is looked at.
import { get } from "../../lib/api.js";

/** Both models' alternatives at a position; asked for once, then kept with the rollout. */
export function alternativesAt(rollout, position) {
  rollout.found ??= new Map();
  if (!rollout.found.has(position)) {
    const asked = get(`rollouts/${rollout.meta.id}/topk`, { position }).then((a) => a.items[0]);
    rollout.found.set(position, asked);
    asked.catch(() => rollout.found.delete(position));
  }
  return rollout.found.get(position);
}

/**
 * One row an alternative, of either model, by the larger of both probabilities, and what is not
 * shown. `share` is p·(log p − log q) of the exact KL.
 */
export function tableOf(found, sampled, kl) {
  const rows = new Map();
  for (const entry of [...(found.student ?? []), ...(found.teacher ?? [])]) {
    if (rows.has(entry.id)) continue;
    const [p, q] = [entry.student_logprob, entry.teacher_logprob];
    const share = kl > 1e-6 && isNumber(p) && isNumber(q) ? (Math.exp(p) * (p - q)) / kl : null;
    rows.set(entry.id, { ...entry, p: chance(p), q: chance(q), share, sampled: entry.id === sampled });
  }
  const list = [...rows.values()].sort((a, b) => Math.max(b.p, b.q) - Math.max(a.p, a.q));
  const shown = list.reduce((sum, row) => sum + (row.share ?? 0), 0);
  return { list, rest: { p: rest(list, "p"), q: rest(list, "q"), share: kl > 1e-6 ? 1 - shown : null } };
}

/** null where a model's opinion is not stored: an import may list an id for one of them only. */
function chance(logprob) {
  return isNumber(logprob) ? Math.exp(logprob) : null;
}

function rest(list, key) {
  if (list.some((row) => !isNumber(row[key]))) return null;
  return Math.max(0, 1 - list.reduce((sum, row) => sum + row[key], 0));
}

function isNumber(value) {
  return typeof value === "number" && !Number.isNaN(value);
}

/** The coach's first choice, likeliest of all that is listed. */
export function firstChoice(found) {
  const all = [...(found.teacher ?? []), ...(found.student ?? [])].filter((e) => isNumber(e.teacher_logprob));
  return all.reduce((best, e) => (best && best.teacher_logprob >= e.teacher_logprob ? best : e), null);
}
