// Behind the fields of models and data: a button that opens the picker; data files can be dropped.
import { button, h } from "../../lib/dom.js";
import { SourcePicker } from "./picker.js";
import { dropped, uploadFile } from "./upload.js";

/** @type {Record<string, SourceKind>} */
const KINDS = {
  "student.model": "model",
  "teacher.model": "model",
  "teacher.routes/model": "model",
  "prompts.source": "data",
  "prompts.eval_source": "data",
  "evaluation.suites/source": "data",
};

/**
 * What stands behind a field's input, if it names a model or data.
 * @param {Control} control @param {string} [section] whose part the field belongs to
 */
export function pickerAside(control, section) {
  const { field, element } = control;
  const kind = KINDS[section ? `${section}/${field.path}` : field.path];
  if (!kind) return null;
  const input = /** @type {HTMLInputElement} */ (control.input);
  const note = h("p", { class: "pick-note help-text", role: "status" });
  /** @param {string} value @param {string} [said] */
  const choose = (value, said = "") => {
    input.value = value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
    input.focus();
    tell(said);
  };
  /** @param {string} said @param {boolean} [bad] */
  const tell = (said, bad = false) => {
    input.parentElement?.after(note);
    note.textContent = said;
    note.classList.toggle("bad-text", bad);
  };
  input.addEventListener("input", () => tell(""));
  if (kind === "data") dropped(element, (file) => uploadFile(file, choose, tell));
  return button("Choose", () => new SourcePicker(kind, field.title, choose).open(), {
    class: "btn pick",
    "aria-label": `Choose ${field.title}`,
    "aria-haspopup": "dialog",
  });
}
