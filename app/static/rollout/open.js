// Opens a rollout: its description and its tokens, kept for going back and forth.
import { get, getBytes } from "../lib/api.js";
import { cellsOf, cellsOfTexts } from "./text/glyphs.js";
import { decode } from "./text/payload.js";

const MOST_TOKENS = 200_000; // kept in memory, over all rollouts
const kept = new Map(); // id → promise, the newest last

export function openRollout(id) {
  if (kept.has(id)) {
    const known = kept.get(id);
    kept.delete(id);
    kept.set(id, known);
    return known;
  }
  const opening = load(id);
  kept.set(id, opening);
  opening.then(forgetOldest, () => kept.delete(id));
  return opening;
}

async function load(id) {
  const start = performance.now();
  const [meta, buffer] = await Promise.all([get(`rollouts/${id}`), getBytes(`rollouts/${id}/tokens`)]);
  const fetched = performance.now();
  const { n, columns, prompt, texts, header } = decode(buffer);
  const own = header.own_texts ?? {};
  const cells = own.completion ? cellsOfTexts(own.completion) : cellsOf(columns.completion_ids, texts);
  const bare = n === 0 && prompt.length === 0; // text without tokens: it is only shown
  const promptCells = bare
    ? cellsOfTexts([meta.prompt, "\n", meta.completion])
    : own.prompt
      ? cellsOfTexts(own.prompt)
      : cellsOf(prompt, texts);
  const timings = { fetch: fetched - start, decode: performance.now() - fetched, bytes: buffer.byteLength };
  return { meta, n, columns, cells, promptCells, promptIds: prompt, header, timings };
}

/** Fetches further columns into an open rollout. */
export async function addColumns(rollout, names) {
  if (!names.length) return;
  rollout.adding ??= new Map();
  const wanted = [...names].sort().join(",");
  if (!rollout.adding.has(wanted)) {
    const asked = getBytes(`rollouts/${rollout.meta.id}/tokens`, { columns: wanted });
    rollout.adding.set(
      wanted,
      asked.then((buffer) => Object.assign(rollout.columns, decode(buffer).columns)),
    );
    rollout.adding.get(wanted).catch(() => rollout.adding.delete(wanted));
  }
  await rollout.adding.get(wanted);
}

async function forgetOldest() {
  let total = 0;
  for (const [id, opening] of [...kept].reverse()) {
    const rollout = await opening.catch(() => null);
    total += rollout?.n ?? 0;
    if (total > MOST_TOKENS && id !== [...kept.keys()].at(-1)) kept.delete(id);
  }
}
