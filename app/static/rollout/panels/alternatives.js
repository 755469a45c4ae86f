// What either model would rather have written at a token: fetched when the token is looked at.
import { get } from "../../lib/api.js";
import { oncePerObject } from "../state.js";

const requests = oncePerObject(() => new Map()); // cells of a rollout → position → promise

/** Both models' alternatives at a position; fetched once for each rollout. */
export function alternativesAt(rollout, position) {
  const kept = requests(rollout.cells);
  if (!kept.has(position)) {
    const request = get(`rollouts/${rollout.meta.id}/topk`, { position }).then((page) => page.items[0]);
    kept.set(position, request);
    request.catch(() => kept.delete(position));
  }
  return kept.get(position);
}

/**
 * One row per alternative of either model, by the larger of both probabilities, and what is not
 * listed. `share` is p·(log p − log q) as a fraction of the exact KL.
 */
export function tableOf(alternatives, sampled, kl) {
  const rows = new Map();
  for (const entry of [...(alternatives.student ?? []), ...(alternatives.teacher ?? [])]) {
    if (rows.has(entry.id)) continue;
    const [p, q] = [entry.student_logprob, entry.teacher_logprob];
    const share = kl > 1e-6 && isNumber(p) && isNumber(q) ? (Math.exp(p) * (p - q)) / kl : null;
    rows.set(entry.id, {
      ...entry,
      p: probabilityOf(p),
      q: probabilityOf(q),
      share,
      sampled: entry.id === sampled,
    });
  }
  const list = [...rows.values()].sort((a, b) => Math.max(b.p, b.q) - Math.max(a.p, a.q));
  const shown = list.reduce((sum, row) => sum + (row.share ?? 0), 0);
  return { list, rest: { p: rest(list, "p"), q: rest(list, "q"), share: kl > 1e-6 ? 1 - shown : null } };
}

/** null where a model's log-probability is not stored: an import may list an id for one of them only. */
function probabilityOf(logprob) {
  return isNumber(logprob) ? Math.exp(logprob) : null;
}

function rest(list, key) {
  if (list.some((row) => !isNumber(row[key]))) return null;
  return Math.max(0, 1 - list.reduce((sum, row) => sum + row[key], 0));
}

export function isNumber(value) {
  return typeof value === "number" && !Number.isNaN(value);
}

/** The teacher's first choice: the likeliest under it of all that is listed. */
export function firstChoice(alternatives) {
  const all = [...(alternatives.teacher ?? []), ...(alternatives.student ?? [])];
  return all
    .filter((entry) => isNumber(entry.teacher_logprob))
    .reduce((best, e) => (best && best.teacher_logprob >= e.teacher_logprob ? best : e), null);
}
