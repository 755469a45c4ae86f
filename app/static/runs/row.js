// One line of the table of runs.
import { page } from "../lib/api.js";
import { button, h, link } from "../lib/dom.js";
import { date, isLive, now, plain } from "../lib/format.js";
import { actionMenu } from "../lib/menu.js";
import { runEditor } from "./editor.js";

/** @param {Run} run @param {ColumnView[]} columns @param {RowActions} on */
export function runRow(run, columns, on) {
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
      run.waits_because &&
        h("span", {
          class: "note muted waits",
          title: plain(run.waits_because, 300),
          text: `waiting: ${plain(run.waits_because, 60)}`,
        }),
      tagsOf(run, on),
      run.notes && h("span", { class: "note muted", title: plain(run.notes), text: plain(run.notes, 60) }),
    ),
    columns.map((column) => column.cells(run)),
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

/** The row below a run in which it is edited. @param {Run} run @param {number} span @param {RowActions} on */
export function editorRow(run, span, on) {
  const row = h("tr", { class: "editor" });
  const form = runEditor(run, { saved: () => on.saved(run), close: () => row.remove() });
  row.append(h("td", { colspan: span }, form));
  return row;
}

/** @param {Run} run */
export function elapsed(run, at = now()) {
  if (run.status !== "running" && run.seconds) return run.seconds;
  const start = date(run.started_at);
  const end = date(run.finished_at);
  return start ? ((end ? end.getTime() : at) - start.getTime()) / 1000 : null;
}
