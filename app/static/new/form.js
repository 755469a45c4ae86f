// One field of a form: its label, control, help, and the problem beside it.
import { h, select } from "../lib/dom.js";
import { readValue, showValue } from "./fields.js";

/** @type {Record<string, string[]>} */
const SUGGESTIONS = {
  "student.model": ["bundled/student"],
  "teacher.model": ["bundled/teacher"],
  "prompts.source": ["bundled"],
  device: ["auto", "cpu", "cuda", "cuda:0", "mps"],
};

/** @param {Field} field @param {unknown} value @param {(value: unknown) => unknown} changed */
export function control(field, value, changed) {
  const id = `field-${field.path.replaceAll(".", "-")}`;
  const input = inputOf(field, id, value, changed);
  const problem = h("p", { class: "bad-text", id: `${id}-problem`, role: "alert" });
  input.setAttribute("aria-describedby", `${id}-problem ${id}-help`);
  const help = h("p", { class: "help-text muted", id: `${id}-help`, text: helpOf(field, value) });
  const element = h(
    "div",
    { class: "form-row", "data-field": field.path },
    h("label", { for: id, text: field.title }),
    h("div", { class: "form-control" }, input, listOf(field, id), problem, help),
  );
  return { field, input, element, problem, help };
}

/** @param {Field} field @param {string} id @param {any} value @param {(value: unknown) => unknown} changed */
function inputOf(field, id, value, changed) {
  if (field.options) {
    return select(
      field.options.map((option) => [option, option]),
      value ?? field.options[0],
      changed,
      { id },
    );
  }
  if (field.kind === "boolean" && field.nullable) {
    return select(
      [
        ["", "not set"],
        ["true", "on"],
        ["false", "off"],
      ],
      String(value ?? ""),
      (v) => changed(v ? v === "true" : null),
      { id },
    );
  }
  if (field.kind === "switch" || field.kind === "boolean") {
    const box = h("input", {
      id,
      type: "checkbox",
      checked: Boolean(value),
      onchange: () => changed(box.checked),
    });
    return box;
  }
  const numeric = field.kind === "integer" || field.kind === "number";
  const input = h("input", {
    id,
    class: numeric ? "field num" : "field wide",
    value: showValue(value),
    inputmode: numeric ? "decimal" : null,
    list: SUGGESTIONS[field.path] ? `${id}-list` : null,
    spellcheck: "false",
    autocomplete: "off",
    placeholder: field.nullable ? "none" : null,
    oninput: () => changed(readValue(field, input.value)),
  });
  return input;
}

/** @param {Field} field @param {string} id */
function listOf(field, id) {
  const words = SUGGESTIONS[field.path];
  return (
    words &&
    h(
      "datalist",
      { id: `${id}-list` },
      words.map((value) => h("option", { value })),
    )
  );
}

/** @param {Field} field @param {any} value */
function helpOf(field, value) {
  if (field.choices) return `${field.help} ${field.choices[value ?? field.options?.[0]] ?? ""}`;
  const low = field.schema.minimum ?? field.schema.exclusiveMinimum;
  const high = field.schema.maximum ?? field.schema.exclusiveMaximum;
  if (low === undefined || high === undefined) return field.help;
  const [from, to] = [low.toLocaleString("en-US"), high.toLocaleString("en-US")];
  if (field.schema.exclusiveMinimum !== undefined) return `${field.help} Above ${from}, up to ${to}.`;
  return `${field.help} ${from} to ${to}.`;
}

/** @param {Control} control @param {any} value */
export function setControl({ field, input, help }, value) {
  help.textContent = helpOf(field, value);
  if (input.type === "checkbox") input.checked = Boolean(value);
  else if (field.kind === "boolean") input.value = String(value ?? "");
  else input.value = field.kind === "choice" ? (value ?? field.options?.[0]) : showValue(value);
}

/** @param {Control} control @param {string} message */
export function showProblem({ input, problem }, message) {
  problem.textContent = message;
  input.setAttribute("aria-invalid", message ? "true" : "false");
}
