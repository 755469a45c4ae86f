// Requests to the REST routes, with errors that say what, where and what to change.

import { setClock } from "./format.js";

const BASE = "api/v1/";
/** Whether what is shown can be changed: not in a report, which stands for this module there. */
export const CHANGEABLE = true;

/** An answer that is not a success (`status` 0: no answer), in words that a page can show. */
class ApiError extends Error {
  /** @param {number} status @param {any} body JSON of the answer, or null */
  constructor(status, body) {
    const detail = body && typeof body === "object" ? (body.error ?? body.detail ?? body) : null;
    super(messageOf(status, detail, body));
    this.status = status;
    /** @type {FieldProblem[]} */
    this.problems = detail?.problems ?? body?.problems ?? [];
    this.hint = body?.hint ?? hintOf(status);
    this.where = body?.where ?? "";
    /** Of an edit that was refused: what the run is now. @type {RunLabels | null} */
    this.current = body?.current ?? null;
  }
}

/** @param {number} status @param {any} detail @param {any} body */
function messageOf(status, detail, body) {
  // The hint of a 401 says what to do.
  if (typeof detail === "string" && detail) return status === 401 ? (detail.split(": ")[0] ?? "") : detail;
  if (typeof detail?.message === "string") return detail.message;
  const problem = (detail?.problems ?? body?.problems ?? [])[0];
  if (problem?.message.startsWith("no such ")) return problem.message; // of the address
  if (problem) return problem.field ? `${problem.field}: ${problem.message}` : problem.message;
  if (Array.isArray(detail) && detail[0]?.msg) return detail.map((one) => one.msg).join("; ");
  return status === 0 ? "The server does not respond" : `The server responded with status ${status}`;
}

/** @param {number} status */
function hintOf(status) {
  if (status === 0) return "Is it running? Start it with: opd serve";
  if (status === 401 || status === 403) return signIn();
  if (status === 404) return "It may have been deleted; see the list of runs.";
  return "";
}

/** What gives a page its access. */
export function signIn() {
  if (!navigator.cookieEnabled)
    return "This browser blocks cookies here, and the access token is kept in one: allow them for this address, then open the link that the server printed.";
  return "Open the link that the server printed when it started; it holds the access token.";
}

/** A route's address with its query. @param {string} path @param {Query} [params] */
export function address(path, params) {
  return BASE + path + queryText(params);
}

/** "?a=1&b=2", or ""; empty values are left out. @param {Query} [params] */
function queryText(params) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params ?? {})) {
    if (value !== "" && value !== null && value !== undefined) query.set(name, String(value));
  }
  const text = query.toString();
  return text ? `?${text}` : "";
}

/** @param {string} url @param {RequestInit} [options] */
async function request(url, options) {
  let response;
  try {
    response = await fetch(url, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, null);
  }
  setClock(response.headers.get("date"));
  if (response.ok) return response;
  const type = response.headers.get("content-type") ?? "";
  throw new ApiError(response.status, type.includes("json") ? await response.json() : null);
}

/**
 * The JSON of a route. Raises ApiError.
 * @param {string} path @param {Query} [params] @param {RequestInit} [options]
 * @returns {Promise<any>}
 */
export async function get(path, params, options) {
  return (await request(address(path, params), options)).json();
}

/** @param {string} path @param {Query} [params] @param {RequestInit} [options] */
export async function getBytes(path, params, options) {
  return (await request(address(path, params), options)).arrayBuffer();
}

/**
 * Sends JSON; → JSON of the answer, null where it has none. Raises ApiError.
 * @param {string} method @param {string} path @param {unknown} [body]
 * @param {Record<string, string>} [headers]
 * @returns {Promise<any>}
 */
export async function send(method, path, body, headers) {
  const response = await request(address(path), {
    method,
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(body ?? {}),
  });
  return response.status === 204 ? null : response.json();
}

/**
 * Sends a file as it is. Raises ApiError.
 * @param {string} path @param {Query} params @param {Blob} file @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function sendFile(path, params, file, signal) {
  const headers = { "Content-Type": "application/octet-stream" };
  return (await request(address(path, params), { method: "POST", headers, body: file, signal })).json();
}

/** A page's address with its query; empty values are left out. @param {string} name @param {Query} [params] */
export function page(name, params) {
  return (name || "./") + queryText(params);
}

/** The query of the page's address. */
export function query() {
  return new URLSearchParams(location.search);
}

/** A random key: a request that is sent twice with the same key has one effect. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}
