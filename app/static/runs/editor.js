// The form that changes a run's name, tags and notes.
import { send } from "../lib/api.js";
import { button, fill, h } from "../lib/dom.js";
import { plain } from "../lib/format.js";

/**
 * Sends only what was changed; an edit that somebody else has made meanwhile is shown, not undone.
 * @param {Run} run as it is when the form opens
 * @param {{saved: () => unknown, close: () => unknown}} on
 */
export function runEditor(run, on) {
  const name = h("input", { class: "field", value: run.name ?? "", maxlength: "200", "aria-label": "Name" });
  const tags = h("input", {
    class: "field",
    value: joined(run.tags),
    placeholder: "tags, comma-separated",
    "aria-label": "Tags",
  });
  const notes = h("input", {
    class: "field wide",
    value: run.notes ?? "",
    placeholder: "notes",
    maxlength: "20000",
    "aria-label": "Notes",
  });
  const problem = h("div", { class: "bad-text", role: "alert" });
  let version = run.version;
  const save = async () => {
    const typed = { name: name.value, tags: tags.value, notes: notes.value };
    try {
      await send("PATCH", `runs/${run.id}`, changeOf(run, typed), { "If-Match": `"${version}"` });
      on.saved();
    } catch (error) {
      if (error.current) fill(problem, conflict(error.current));
      else problem.textContent = [error.message, error.hint].filter(Boolean).join(". ");
    }
  };
  /** @param {RunLabels} current */
  const conflict = (current) => [
    h("p", { text: `Somebody else has edited this run meanwhile. It is now: ${described(current)}.` }),
    h(
      "p",
      { class: "row" },
      button(
        "Save my changes too",
        () => {
          version = current.version;
          save();
        },
        { class: "btn" },
      ),
      button("Drop my changes", () => on.saved(), { class: "btn quiet" }),
    ),
  ];
  /** @param {KeyboardEvent} e */
  const keys = (e) => {
    if (e.key === "Enter" && e.target instanceof HTMLInputElement) save();
    if (e.key === "Escape") on.close();
  };
  const fields = h(
    "div",
    { class: "row" },
    name,
    tags,
    notes,
    button("Save", save, { class: "btn strong" }),
    button("Cancel", on.close, { class: "btn quiet" }),
  );
  return h("div", { class: "run-editor", onkeydown: keys }, fields, problem);
}

/**
 * What a request has to say so that the run becomes what was typed; tags that stay are not named.
 * @param {{name: string, tags: string[], notes: string}} run
 * @param {{name: string, tags: string, notes: string}} typed
 */
export function changeOf(run, typed) {
  /** @type {{name?: string, notes?: string, add_tags?: string[], remove_tags?: string[]}} */
  const change = {};
  if (typed.name !== (run.name ?? "")) change.name = typed.name;
  if (typed.notes !== (run.notes ?? "")) change.notes = typed.notes;
  if (typed.tags !== joined(run.tags)) {
    const before = run.tags ?? [];
    const after = typed.tags.split(",").map((tag) => tag.trim());
    change.add_tags = after.filter((tag) => tag && !before.includes(tag));
    change.remove_tags = before.filter((tag) => !after.includes(tag));
  }
  return change;
}

/** @param {string[] | undefined} tags */
function joined(tags) {
  return (tags ?? []).join(", ");
}

/** @param {RunLabels} run */
function described({ name, tags, notes }) {
  const parts = [`name “${plain(name, 200)}”`, tags.length ? `tags ${plain(joined(tags), 300)}` : "no tags"];
  return [...parts, notes ? `notes “${plain(notes, 300)}”` : "no notes"].join(", ");
}
