// Keys of the token view; they rest while a field has the focus, which Escape gives back to the text.
import { showHelp } from "./help.js";

export function listenKeys(view) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !view.rollout) return;
    if (event.target.closest("input, select, textarea, dialog")) {
      if (event.key === "Escape" && !event.target.closest("dialog"))
        view.text.element.focus({ preventScroll: true });
      return;
    }
    const action = ACTIONS[event.key];
    if (!action || (event.key.startsWith("Arrow") && event.target.closest("button, a"))) return;
    event.preventDefault();
    action(view);
  });
}

const ACTIONS = {
  ArrowRight: (v) => move(v, 1),
  ArrowLeft: (v) => move(v, -1),
  ArrowDown: (v) => moveLine(v, 1),
  ArrowUp: (v) => moveLine(v, -1),
  Home: (v) => v.pin(0),
  End: (v) => v.pin(v.rollout.n - 1),
  n: (v) => v.worst(1),
  p: (v) => v.worst(-1),
  N: (v) => v.worstOfRun(1),
  P: (v) => v.worstOfRun(-1),
  j: (v) => v.sibling(1),
  k: (v) => v.sibling(-1),
  m: (v) => v.cycleMetric(1),
  M: (v) => v.cycleMetric(-1),
  "/": (v) => v.toolbar.search.focus(),
  "?": () => showHelp(),
  Escape: (v) => v.pin(-1),
};

function move(view, step) {
  const last = view.rollout.n - 1;
  if (last < 0) return;
  const from = view.pinned < 0 ? (step > 0 ? -1 : 1) : view.pinned;
  view.pin(Math.max(0, Math.min(last, from + step)));
}

/** The token of the neighbouring line that starts nearest to the same place. */
function moveLine(view, step) {
  if (view.pinned < 0) return move(view, step);
  const { layout, prompt } = view.text;
  const line = view.text.lineOf(view.pinned);
  const next = Math.max(layout.promptLines, Math.min(layout.lines - 1, line + step));
  const place = cellsBefore(view, line, view.pinned + prompt);
  let best = -1;
  for (let p = layout.lineStart[next]; p < layout.lineStart[next + 1]; p++) {
    if (best < 0 || cellsBefore(view, next, layout.token[p]) <= place) best = layout.token[p];
  }
  view.pin(best - prompt);
}

function cellsBefore(view, line, token) {
  const { layout, prompt, rollout } = view.text;
  let cells = 0;
  for (let p = layout.lineStart[line]; p < layout.lineStart[line + 1] && layout.token[p] !== token; p++) {
    cells += rollout.cells[layout.token[p] - prompt].widths[0];
  }
  return cells;
}
