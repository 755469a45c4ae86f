// Opens a rollout: its description and its tokens, kept for going back and forth. Rollouts are
// frozen; one with more columns is a new object.
import { get, getBytes } from "../lib/api.js";
import { cellsOf, cellsOfTexts } from "./text/glyphs.js";
import { decode } from "./text/payload.js";

const MAX_TOKENS = 200_000; // kept in memory, over all rollouts
/** @type {Map<string, {opening: Promise<Rollout>, rollout: Rollout | null}>} */
const kept = new Map(); // by id, the newest last
/** @type {Map<string, Promise<Columns>>} */
const fetching = new Map(); // columns on their way

/** @param {string} id @returns {Promise<Rollout>} */
export function openRollout(id) {
  const entry = kept.get(id) ?? begin(id);
  kept.delete(id); // it becomes the newest
  kept.set(id, entry);
  return entry.opening;
}

/** @param {string} id */
function begin(id) {
  /** @type {{opening: Promise<Rollout>, rollout: Rollout | null}} */
  const entry = { opening: load(id), rollout: null };
  /** @param {Rollout} rollout */
  const opened = (rollout) => {
    entry.rollout ??= rollout;
    forgetOldest();
  };
  entry.opening.then(opened, () => kept.delete(id));
  return entry;
}

/** @returns {Promise<Rollout>} @param {string} id */
async function load(id) {
  const start = performance.now();
  const [meta, buffer] = await Promise.all([get(`rollouts/${id}`), getBytes(`rollouts/${id}/tokens`)]);
  const fetched = performance.now();
  const { n, columns, texts, ownTexts } = decode(buffer);
  const cells = ownTexts.completion
    ? cellsOfTexts(ownTexts.completion)
    : cellsOf(columns.completion_ids, texts);
  const promptCells = promptCellsOf(meta, n, columns.prompt_ids, texts, ownTexts);
  const timings = { fetch: fetched - start, decode: performance.now() - fetched, bytes: buffer.byteLength };
  return Object.freeze({
    meta: Object.freeze(meta),
    n,
    columns: Object.freeze(columns),
    cells,
    promptCells,
    promptIds: columns.prompt_ids,
    timings: Object.freeze(timings),
  });
}

/**
 * @param {RolloutMeta} meta
 * @param {number} n
 * @param {IntColumn} ids
 * @param {TokenTexts} texts
 * @param {OwnTexts} ownTexts
 */
function promptCellsOf(meta, n, ids, texts, ownTexts) {
  if (n === 0 && ids.length === 0) return cellsOfTexts([meta.prompt, "\n", meta.completion]); // without tokens
  return ownTexts.prompt ? cellsOfTexts(ownTexts.prompt) : cellsOf(ids, texts);
}

/**
 * The rollout with further columns, itself where it has them. @returns {Promise<Rollout>}
 * @param {Rollout} rollout @param {string[]} names
 */
export async function withColumns(rollout, names) {
  const { id } = rollout.meta;
  const newest = () => kept.get(id)?.rollout ?? rollout;
  const missing = names.filter((name) => !newest().columns[name]);
  if (!missing.length) return newest();
  const added = await fetchColumns(id, missing);
  const columns = Object.freeze({ ...newest().columns, ...added });
  const richer = Object.freeze({ ...newest(), columns });
  const entry = kept.get(id);
  if (entry) Object.assign(entry, { rollout: richer, opening: Promise.resolve(richer) });
  return richer;
}

/** @param {string} id @param {string[]} names */
function fetchColumns(id, names) {
  const columns = [...names].sort().join(",");
  const key = `${id} ${columns}`;
  if (!fetching.has(key)) {
    const request = getBytes(`rollouts/${id}/tokens`, { columns }).then((buffer) => decode(buffer).columns);
    fetching.set(key, request);
    const settled = () => fetching.delete(key);
    request.then(settled, settled);
  }
  return fetching.get(key);
}

async function forgetOldest() {
  let total = 0;
  for (const [id, { opening }] of [...kept].reverse()) {
    const rollout = await opening.catch(() => null);
    total += rollout?.n ?? 0;
    if (total > MAX_TOKENS && id !== [...kept.keys()].at(-1)) kept.delete(id);
  }
}
