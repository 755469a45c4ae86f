// What either model would rather have written at a token: fetched when the token is looked at.
import { get } from "../../lib/api.js";
import { oncePerObject } from "../state.js";

const requests = oncePerObject(() => new Map()); // cells of a rollout → position → promise

/**
 * Both models' alternatives at a position; fetched once for each rollout.
 * @param {Rollout} rollout @param {number} position
 */
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
 * One row per alternative of either model and for the written token, by the larger of both
 * probabilities, and what is not listed. `share` is p·(log p − log q) as a fraction of the exact KL.
 * @param {Alternatives} alternatives @param {Alternative} written @param {number} kl
 */
export function tableOf(alternatives, written, kl) {
  /** @type {Map<number, AlternativeRow>} */
  const rows = new Map();
  const listed = [...(alternatives.student ?? []), ...(alternatives.teacher ?? [])];
  for (const entry of [...listed, written]) {
    if (rows.has(entry.id)) continue;
    const [p, q] = [entry.student_logprob, entry.teacher_logprob];
    const share = kl > 1e-6 && isNumber(p) && isNumber(q) ? (Math.exp(p) * (p - q)) / kl : null;
    rows.set(entry.id, {
      ...entry,
      p: probabilityOf(p),
      q: probabilityOf(q),
      share,
      sampled: entry.id === written.id,
      outside: entry === written,
    });
  }
  const list = [...rows.values()].sort((a, b) => larger(b) - larger(a));
  const shown = list.reduce((sum, row) => sum + (row.share ?? 0), 0);
  return { list, rest: { p: rest(list, "p"), q: rest(list, "q"), share: kl > 1e-6 ? 1 - shown : null } };
}

/** The written token as an alternative. @param {Rollout} rollout @param {number} index @returns {Alternative} */
export function writtenAt({ cells, columns: c }, index) {
  const [p, q] = [c.student_logprobs?.[index] ?? null, c.teacher_logprobs?.[index] ?? null];
  return { id: c.completion_ids[index], text: cells[index].raw, student_logprob: p, teacher_logprob: q };
}

/** @param {AlternativeRow} row */
function larger({ p, q }) {
  return Math.max(p ?? 0, q ?? 0);
}

/**
 * null where a model's log-probability is not stored: an import may list an id for one of them only.
 * @param {unknown} logprob
 */
function probabilityOf(logprob) {
  return isNumber(logprob) ? Math.exp(logprob) : null;
}

/** @param {AlternativeRow[]} list @param {"p" | "q"} key */
function rest(list, key) {
  if (list.some((row) => !isNumber(row[key]))) return null;
  return Math.max(0, 1 - list.reduce((sum, row) => sum + (row[key] ?? 0), 0));
}

/** @param {unknown} value @returns {value is number} */
export function isNumber(value) {
  return typeof value === "number" && !Number.isNaN(value);
}

/**
 * The teacher's first choice: the likeliest under it of all that is listed.
 * @param {Alternatives} alternatives @returns {Alternative | null}
 */
export function firstChoice(alternatives) {
  /** @type {Alternative | null} */
  let best = null;
  let highest = -Infinity;
  for (const entry of [...(alternatives.teacher ?? []), ...(alternatives.student ?? [])]) {
    if (!isNumber(entry.teacher_logprob) || entry.teacher_logprob <= highest) continue;
    best = entry;
    highest = entry.teacher_logprob;
  }
  return best;
}
