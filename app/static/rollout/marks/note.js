// A mark with its note, in the panel of one token: shown, made, edited and removed there.
import { button, fill, h } from "../../lib/dom.js";
import { ago, exact, plain } from "../../lib/format.js";

const MAX_NOTE = 2000;
const SHOWN_NOTE = 4000; // characters as drawn, where those that are not shown stand as a code

export class MarkNote {
  /** @param {import("./store.js").MarkStore} store */
  constructor(store) {
    this.store = store;
    this.element = h("section", { class: "mark-note", "aria-label": "Mark" });
    /** @type {Map<string, string>} by target: what is being typed, kept while another token is looked at */
    this.drafts = new Map();
    /** @type {{rollout: string, position: number | null, active: boolean} | null} */
    this.target = null;
    this.print = "";
  }

  /**
   * The mark of a token (`position` null: of the rollout); edited only where it is `active`, which the
   * token under the pointer is not.
   * @param {string} rollout @param {number | null} position @param {boolean} active
   */
  show(rollout, position, active) {
    const before = this.target && keyOf(this.target);
    this.target = { rollout, position, active: active && this.store.changeable };
    if (before === keyOf(this.target) && this.isEdited()) return;
    const print = JSON.stringify([this.target, this.mark, this.isEdited()]);
    if (print === this.print) return;
    this.print = print;
    this.draw();
  }

  get mark() {
    return this.target && this.store.at(this.target.position);
  }

  isEdited() {
    const { target } = this;
    return target ? target.active && this.drafts.has(keyOf(target)) : false;
  }

  /** Opens the note for typing. */
  edit() {
    if (!this.target?.active) return;
    const key = keyOf(this.target);
    if (!this.drafts.has(key)) this.drafts.set(key, this.mark?.note ?? "");
    this.draw();
    const field = this.element.querySelector("textarea");
    field?.focus();
    field?.setSelectionRange(field.value.length, field.value.length);
    this.element.scrollIntoView({ block: "nearest" });
  }

  close() {
    if (this.target) this.drafts.delete(keyOf(this.target));
    this.draw();
  }

  draw() {
    this.print = "";
    if (!this.target) return fill(this.element);
    if (this.isEdited()) return this.drawEditor();
    const { active, position } = this.target;
    const what = position === null ? "rollout" : "token";
    const { mark } = this;
    if (!mark) {
      const make = button(`Mark this ${what}`, () => this.edit(), { class: "btn small" });
      const keys = h("kbd", { text: position === null ? "B" : "b" });
      return fill(this.element, active && h("div", { class: "row" }, make, keys));
    }
    fill(
      this.element,
      h(
        "div",
        { class: "row mark-line" },
        markSign(),
        h("span", { text: `Marked ${what}` }),
        h("span", { class: "muted", text: ago(mark.changed_at), title: exact(mark.changed_at) }),
        h("span", { class: "spacer" }),
        active &&
          button("Edit", () => this.edit(), { class: "btn small quiet", "aria-label": "Edit the note" }),
        active &&
          button("Remove", () => this.remove(mark), {
            class: "btn small quiet",
            "aria-label": "Remove the mark",
          }),
      ),
      mark.note && noteText(mark.note),
      mark.rewritten && h("p", { class: "bad-text", text: REWRITTEN }),
    );
  }

  drawEditor() {
    const target = /** @type {NonNullable<MarkNote["target"]>} */ (this.target);
    const key = keyOf(target);
    const label = target.position === null ? "Note on the rollout" : "Note on the token";
    let seen = this.mark;
    const field = h("textarea", {
      class: "field",
      rows: "3",
      maxlength: String(MAX_NOTE),
      placeholder: "Note (optional)",
      id: "mark-note",
      value: this.drafts.get(key) ?? "",
      oninput: () => this.drafts.set(key, field.value),
    });
    const problem = h("div", { class: "bad-text", role: "alert" });
    const save = async () => {
      try {
        await this.store.save(target.rollout, target.position, field.value, seen);
        this.done(key);
      } catch (error) {
        if (!error.current) problem.textContent = [error.message, error.hint].filter(Boolean).join(". ");
        else fill(problem, conflict(error.current));
      }
    };
    /** @param {RolloutMark} current */
    const conflict = (current) => [
      h("p", { text: "Somebody else has changed this note meanwhile. It is now:" }),
      noteText(current.note || "(empty)"),
      h(
        "p",
        { class: "row" },
        button(
          "Save mine instead",
          () => {
            seen = current;
            save();
          },
          { class: "btn small" },
        ),
        button(
          "Keep theirs",
          () => {
            this.store.put(target.rollout, target.position, current);
            this.done(key);
          },
          { class: "btn small quiet" },
        ),
      ),
    ];
    /** @param {KeyboardEvent} event */
    const keys = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
      if (event.key === "Escape") this.close();
    };
    fill(
      this.element,
      h(
        "div",
        { class: "mark-editor", onkeydown: keys },
        h("label", { class: "muted", for: "mark-note", text: label }),
        field,
        h(
          "div",
          { class: "row" },
          button("Save mark", save, { class: "btn small strong", title: "Ctrl+Enter" }),
          button("Cancel", () => this.close(), { class: "btn small quiet", title: "Esc" }),
        ),
        problem,
      ),
    );
  }

  /** @param {string} key of the target that was saved */
  done(key) {
    const focused = this.element.contains(document.activeElement);
    this.drafts.delete(key);
    this.draw();
    if (focused) this.element.querySelector("button")?.focus();
  }

  /** @param {RolloutMark} mark */
  async remove(mark) {
    try {
      await this.store.remove(mark);
    } catch (error) {
      if (error.current) this.store.put(mark.rollout_id, mark.position, error.current);
      this.draw();
      const text = error.current
        ? "Somebody else has changed this note meanwhile: read it first."
        : error.message;
      this.element.append(h("p", { class: "bad-text", role: "alert", text }));
      return;
    }
    this.draw();
    this.element.querySelector("button")?.focus();
  }
}

const REWRITTEN = "The run was resumed since: another text stands here now than the one that was marked.";

/** What shows a mark besides its colour. */
export function markSign() {
  return h("span", { class: "mark-sign", "aria-hidden": "true" });
}

/** A note as text, line by line. @param {string} note */
export function noteText(note) {
  const text = note
    .split("\n")
    .map((line) => plain(line, SHOWN_NOTE))
    .join("\n");
  return h("p", { class: "mark-text", text });
}

/** @param {{rollout: string, position: number | null}} target */
function keyOf({ rollout, position }) {
  return `${rollout} ${position}`;
}
