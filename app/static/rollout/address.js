// What the address of the token view says, and how the view is written into it.
import { page, query } from "../lib/api.js";
import { GAMMA } from "../lib/palette.js";
import { recall } from "../lib/theme.js";

/** What is shown first: from the address, and this browser's own choices. */
export function stateOf(params) {
  return {
    metric: params.get("metric") ?? "reverse_kl",
    max: Number(params.get("max")) || 0,
    gamma: Math.min(2, Math.max(0.2, Number(params.get("gamma")) || GAMMA)),
    own: params.get("scale") === "own",
    tab: params.get("tab") ?? "token",
    palette: recall("palette", "oranges"),
    underline: recall("underline", "") === "1",
  };
}

/** → {id, pos (−1: none), other (to compare with, or null), at (place in its list, or null)} */
export function placeOf(params = query()) {
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

/** Writes the view into the address; `how` is "push" or "replace". */
export function writeAddress(how, { rollout, pinned, state, filters, at, comparison }) {
  const params = {
    id: rollout.meta.id,
    pos: pinned >= 0 ? pinned : null,
    with: comparison.wanted,
    metric: state.metric === "reverse_kl" ? null : state.metric,
    max: state.max || null,
    gamma: state.gamma === GAMMA ? null : state.gamma,
    scale: state.own ? "own" : null,
    tab: state.tab === "token" ? null : state.tab,
    ...filters,
    at,
  };
  const method = how === "push" ? "pushState" : "replaceState";
  history[method](null, "", page("rollout", params));
}
