// Stands for api.js in a report: the same exports, answered from what the file itself holds.
import { decode } from "../rollout/text/payload.js";

export const CHANGEABLE = false;

class ReportError extends Error {
  constructor(message = "This requires the server", hint = "Start it with: opd serve") {
    super(message);
    this.status = 0;
    this.problems = [];
    this.hint = hint;
    this.where = "";
  }
}

const opened = new Map(); // block → promise of its bytes

/** The bytes of a block: gzip in base64 in a script element that no browser runs. @param {string} name */
function block(name) {
  if (!opened.has(name)) opened.set(name, unpack(name));
  return opened.get(name);
}

/** @param {string} name */
async function unpack(name) {
  const element = document.querySelector(`script[data-block="${CSS.escape(name)}"]`);
  if (!element) throw new ReportError("This is not in the report", "Start the server to see it: opd serve");
  const text = atob(element.textContent);
  const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** @type {Promise<ReportData> | null} */
let whole = null;

/**
 * All about the run and its rollouts but their tokens, as app/report.py put it together.
 * @returns {Promise<ReportData>}
 */
export function reportData() {
  const reading =
    whole ??
    block("report").then((/** @type {ArrayBuffer} */ bytes) => JSON.parse(new TextDecoder().decode(bytes)));
  whole = reading;
  return reading;
}

/** @param {string} path @param {any} params */
export async function get(path, params) {
  const [kind, id, what] = path.split("/");
  const data = await reportData();
  if (kind === "rollouts" && !what) return rolloutOf(data, id);
  if (kind === "rollouts" && what === "topk")
    return topk(id, Number(params.position), Number(params.count ?? 1));
  if (kind === "rollouts" && what === "marks") return part(rolloutOf(data, id).marks ?? []);
  if (kind === "runs" && what === "marks") return part(data.marks, params);
  if (kind === "runs" && what === "rollouts") return part(data.rollouts, params);
  if (kind === "runs" && what === "hot-tokens") return part(data.hot, params);
  if (kind === "runs" && what === "diagnosis" && data.diagnosis) return data.diagnosis;
  throw new ReportError();
}

/** @param {string} path */
export async function getBytes(path) {
  const [kind, id, what] = path.split("/");
  if (kind === "rollouts" && what === "tokens") return block(`${id}/tokens`);
  throw new ReportError();
}

export async function send() {
  throw new ReportError();
}

export function address() {
  return "#server";
}

export function newKey() {
  return "";
}

/**
 * Where a link leads: within the file, or to "#server" for pages that a report has not.
 * @param {string} name @param {Query} params
 */
export function page(name, params) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(params ?? {})) {
    if (value !== "" && value !== null && value !== undefined) query.set(key, String(value));
  }
  if (name === "rollout") return `#rollout?${query}`;
  return name === "run" ? "#run" : "#server";
}

export function query() {
  return new URLSearchParams(location.hash.split("?")[1] ?? "");
}

/** @param {ReportData} data @param {string} id */
function rolloutOf(data, id) {
  const rollout = data.rollouts.find((rollout) => rollout.id === id);
  if (!rollout)
    throw new ReportError("This rollout is not in the report", "Start the server to see it: opd serve");
  return rollout;
}

/** @template T @param {T[]} items */
function part(items, { offset = 0, limit = 50 } = {}) {
  return { items: items.slice(offset, offset + limit), total: items.length };
}

const views = new Map(); // rollout → promise of its alternatives

/** @param {string} id @param {number} position @param {number} count */
async function topk(id, position, count) {
  if (!views.has(id)) views.set(id, block(`${id}/topk`).then(decode));
  const view = await views.get(id);
  const items = [];
  for (let at = position; at < Math.min(view.n, position + count); at++) {
    const tails = {
      student_tail: view.columns.student_topk_tail?.[at],
      teacher_tail: view.columns.teacher_topk_tail?.[at],
    };
    items.push({
      position: at,
      student: listed(view, "student", "teacher", at),
      teacher: listed(view, "teacher", "student", at),
      ...tails,
    });
  }
  return { items, total: items.length };
}

/**
 * One model's alternatives at a token, likeliest first; null where none are stored.
 * @param {TopkView} view
 * @param {"student" | "teacher"} side
 * @param {"student" | "teacher"} other
 * @param {number} at
 */
function listed(view, side, other, at) {
  const [ids, logprobs, otherLogprobs] = ["ids", "logprobs", "other"].map(
    (part) => view.columns[`${side}_topk_${part}`],
  );
  if (!ids) return null;
  const k = ids.length / view.n;
  return Array.from({ length: k }, (_, rank) => {
    const i = at * k + rank;
    const { t, s } = view.texts[ids[i]] ?? {};
    return {
      id: ids[i],
      text: t ?? `⟨${ids[i]}⟩`,
      special: Boolean(s),
      [`${side}_logprob`]: finiteOrNull(logprobs[i]),
      [`${other}_logprob`]: otherLogprobs ? finiteOrNull(otherLogprobs[i]) : null,
    };
  });
}

/** @param {number} value */
function finiteOrNull(value) {
  return Number.isFinite(value) ? value : null;
}
