// Requests to the REST routes, with errors that say what, where and what to change.

const BASE = "api/v1/";

export class ApiError extends Error {
  constructor(status, body) {
    const detail = body && typeof body === "object" ? (body.error ?? body.detail ?? body) : null;
    super(messageOf(status, detail, body));
    this.status = status;
    this.problems = detail?.problems ?? body?.problems ?? [];
    this.hint = body?.hint ?? hintOf(status);
    this.where = body?.where ?? "";
  }
}

function messageOf(status, detail, body) {
  if (typeof detail === "string" && detail) return detail;
  if (typeof detail?.message === "string") return detail.message;
  const problem = (detail?.problems ?? body?.problems ?? [])[0];
  if (problem) return problem.field ? `${problem.field}: ${problem.message}` : problem.message;
  if (Array.isArray(detail) && detail[0]?.msg) return detail.map((t) => t.msg).join("; ");
  return status === 0 ? "The server does not respond" : `The server responded with status ${status}`;
}

function hintOf(status) {
  if (status === 0) return "Is it running? Start it with: opd serve";
  if (status === 401 || status === 403) {
    return "Open the link that the server printed when it started; it holds the access token.";
  }
  if (status === 404) return "It may have been deleted; see the list of runs.";
  return "";
}

export function address(path, params) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params ?? {})) {
    if (value !== "" && value !== null && value !== undefined) query.set(name, value);
  }
  const text = query.toString();
  return BASE + path + (text ? `?${text}` : "");
}

async function request(url, options) {
  let response;
  try {
    response = await fetch(url, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, null);
  }
  if (response.ok) return response;
  const type = response.headers.get("content-type") ?? "";
  throw new ApiError(response.status, type.includes("json") ? await response.json() : null);
}

export async function get(path, params, options) {
  return (await request(address(path, params), options)).json();
}

export async function getBytes(path, params, options) {
  return (await request(address(path, params), options)).arrayBuffer();
}

export async function send(method, path, body) {
  const response = await request(address(path), {
    method,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body ?? {}),
  });
  return response.status === 204 ? null : response.json();
}

/** A page's address with its query; empty values are left out. */
export function page(name, params) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(params ?? {})) {
    if (value !== "" && value !== null && value !== undefined) query.set(key, value);
  }
  const text = query.toString();
  return (name || "./") + (text ? `?${text}` : "");
}

/** What the address asks for. */
export function query() {
  return new URLSearchParams(location.search);
}

export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}
