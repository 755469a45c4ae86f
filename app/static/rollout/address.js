// What the address of the token page says, and how the page is written into it.
import { page, query } from "../lib/api.js";
import { GAMMA } from "../lib/palette.js";
import { recall } from "../lib/theme.js";

/** What is shown first: from the address, and this browser's own choices. @param {URLSearchParams} params */
export function choicesOf(params) {
  return {
    metricKey: params.get("metric") ?? "reverse_kl",
    max: Number(params.get("max")) || 0,
    gamma: Math.min(2, Math.max(0.2, Number(params.get("gamma")) || GAMMA)),
    own: params.get("scale") === "own",
    tab: params.get("tab") ?? "token",
    reader: /** @type {PromptReader} */ (params.get("prompt") === "teacher" ? "teacher" : "student"),
    palette: recall("palette", "oranges"),
    underline: recall("underline", "") === "1",
  };
}

/**
 * pos −1: none; other: to compare with; at: its index in the list.
 * @returns {{id: string | null, pos: number, other: string | null, at: number | null}}
 */
export function targetOf(params = query()) {
  const pos = params.get("pos");
  const other = params.get("with");
  const at = params.get("at");
  return {
    id: params.get("id"),
    pos: pos === null || !/^\d+$/.test(pos) ? -1 : Number(pos),
    other: other && /^roll-[a-z0-9-]{1,120}$/.test(other) ? other : null,
    at: at === null ? null : Number(at),
  };
}

/**
 * Writes what is shown into the address. `history`: "push" or "replace"; `list`: the filters of the
 * list that the rollout was opened from, and its index there.
 * @param {"push" | "replace"} history @param {RolloutView} shown @param {ListOrigin} listOrigin
 */
export function writeAddress(history, shown, { filters, at }) {
  if (globalThis.location?.protocol === "about:") return; // a frame without an address of its own
  const params = {
    id: shown.rollout.meta.id,
    pos: shown.pinned >= 0 ? shown.pinned : null,
    with: shown.compared?.id,
    metric: shown.metricKey === "reverse_kl" ? null : shown.metricKey,
    max: shown.max || null,
    gamma: shown.gamma === GAMMA ? null : shown.gamma,
    scale: shown.own ? "own" : null,
    tab: shown.tab === "token" ? null : shown.tab,
    prompt: shown.reader === "teacher" ? "teacher" : null,
    ...filters,
    at,
  };
  const method = history === "push" ? "pushState" : "replaceState";
  window.history[method](null, "", page("rollout", params));
}
