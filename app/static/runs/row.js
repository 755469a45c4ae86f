// One line of the table of runs.
import { page } from "../lib/api.js";
import { button, h, link } from "../lib/dom.js";
import {
  ago,
  bytes,
  date,
  duration,
  exact,
  integer,
  isLive,
  nats,
  percent,
  plain,
  short,
} from "../lib/format.js";
import { actionMenu } from "../lib/menu.js";
import { runEditor } from "./editor.js";
import { models } from "./texts.js";

export const COLUMNS = [
  ["", "choose"],
  ["Status", ""],
  ["Name", ""],
  ["Recipe", ""],
  ["Student ← teacher", ""],
  ["Step", "r"],
  ["", ""],
  ["KL, nats per token", "r"],
  ["Score", "r"],
  ["Tokens", "r"],
  ["Time", "r"],
  ["Disk", "r"],
  ["Created", "r"],
  ["", ""],
];

/** @param {Run} run @param {RowActions} on */
export function runRow(run, on) {
  const share = run.steps ? Math.min(1, (run.step ?? 0) / run.steps) : 0;
  const busy = isLive(run.status);
  return h(
    "tr",
    { "data-run": run.id },
    h("td", { class: "choose" }, chooser(run, on)),
    h("td", {}, h("span", { class: `status ${run.status}`, title: why(run), text: run.status })),
    h(
      "td",
      { class: "clip name" },
      nameOf(run),
      run.error_kind && h("span", { class: "note bad-text", text: plain(run.error_kind, 40) }),
      tagsOf(run, on),
      run.notes && h("span", { class: "note muted", title: plain(run.notes), text: plain(run.notes, 60) }),
    ),
    h("td", { class: "muted", text: plain(run.recipe_label || "–", 40) }),
    h(
      "td",
      { class: "clip models", title: `${plain(run.student ?? "", 200)} ← ${plain(run.teacher ?? "", 200)}` },
      models(run),
    ),
    h("td", { class: "r", text: `${integer(run.step ?? 0)} / ${integer(run.steps)}` }),
    h(
      "td",
      { class: "run-bar" },
      h(
        "span",
        { class: "progress", title: percent(share) },
        h("span", { style: { width: `${share * 100}%` } }),
      ),
    ),
    h("td", { class: "r", text: nats(run.kl) }),
    h("td", { class: "r", title: "before training → latest evaluation" }, score(run)),
    h("td", { class: "r", title: integer(run.tokens), text: short(run.tokens) }),
    h("td", { class: "r", text: duration(run.seconds) }),
    h("td", { class: "r", title: diskTitle(run), text: bytes(diskOf(run)) }),
    h("td", { class: "r", title: exact(run.created_at), text: ago(run.created_at) }),
    h(
      "td",
      { class: "r actions" },
      actionMenu([
        button("Edit", () => on.edit(run), { class: "btn quiet" }),
        link("Clone", page("new", { from: run.id }), { class: "btn quiet" }),
        button("Delete", () => on.remove(run), {
          class: "btn quiet",
          disabled: busy,
          title: busy ? "Stop the run first" : "",
        }),
      ]),
    ),
  );
}

/** @param {Run} run @param {RowActions} on */
function chooser(run, on) {
  const box = h("input", {
    type: "checkbox",
    "aria-label": `Select ${plain(run.name || run.id, 60)}`,
    onchange: () => on.choose(run, box.checked),
  });
  box.checked = on.chosen.has(run.id);
  return box;
}

/** @param {Run} run */
function diskOf(run) {
  return (run.bytes ?? 0) + (run.disk?.files ?? 0);
}

/** @param {Run} run */
export function diskTitle(run) {
  const { checkpoints = 0, other = 0 } = run.disk ?? {};
  return `records ${bytes(run.bytes)}, checkpoints ${bytes(checkpoints)}, log and other files ${bytes(other)}`;
}

/** @param {Run} run */
function why(run) {
  const lines = [run.phase, run.end_reason, run.error_kind, run.error_text].filter(Boolean);
  return plain(lines.join(": "), 300);
}

/** @param {Run} run */
function nameOf(run) {
  return link(plain(run.name || run.id, 80), page("run", { id: run.id }), {
    class: "run-name",
    title: run.id,
  });
}

/** @param {Run} run @param {RowActions} on */
function tagsOf(run, on) {
  return (run.tags ?? []).map((tag) =>
    button(plain(tag, 24), () => on.filter({ tag }), {
      class: "tag tag-button",
      title: "Show only runs with this tag",
    }),
  );
}

/** @param {Run} run */
function score(run) {
  if (run.score === null || run.score === undefined) return "–";
  if (run.score_start === null || run.score_start === undefined) return percent(run.score);
  return [h("span", { class: "muted", text: `${percent(run.score_start)} → ` }), percent(run.score)];
}

/** The row below a run in which it is edited. @param {Run} run @param {RowActions} on */
export function editorRow(run, on) {
  const row = h("tr", { class: "editor" });
  const form = runEditor(run, { saved: () => on.saved(run), close: () => row.remove() });
  row.append(h("td", { colspan: COLUMNS.length }, form));
  return row;
}

/** @param {Run} run */
export function elapsed(run, now = Date.now()) {
  if (run.status !== "running" && run.seconds) return run.seconds;
  const start = date(run.started_at);
  const end = date(run.finished_at);
  return start ? ((end ? end.getTime() : now) - start.getTime()) / 1000 : null;
}
