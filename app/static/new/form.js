// One field of a form: its label, control, help, and the problem beside it.
import { h, select } from "../lib/dom.js";
import { formOf, jsonProblem, readValue, showValue } from "./fields.js";

/** @type {Record<string, string[]>} */
const SUGGESTIONS = { device: ["auto", "cpu", "cuda", "cuda:0", "mps"] };
const NUMERIC = ["integer", "number"];

/**
 * `scope` sets the ids of equal fields apart; `aside` stands behind the input.
 * @param {Field} field @param {unknown} value @param {(value: unknown) => unknown} changed
 * @param {{scope?: string, aside?: (control: Control) => Child}} [options]
 * @returns {Control}
 */
export function control(field, value, changed, { scope = "", aside } = {}) {
  const id = `field-${scope}${field.path.replaceAll(".", "-")}`;
  const input = inputOf(field, id, value, changed);
  const problem = h("p", { class: "bad-text", id: `${id}-problem`, role: "alert" });
  input.setAttribute("aria-describedby", `${id}-problem ${id}-help`);
  const help = h("p", { class: "help-text muted", id: `${id}-help`, text: helpOf(field, value) });
  const box = h("div", { class: "form-control" }, input, listOf(field, id), problem, help);
  const element = h(
    "div",
    { class: "form-row", "data-field": field.path },
    h("label", { for: id, text: field.title }),
    box,
  );
  /** @type {Control} */
  const made = {
    field,
    element,
    input,
    set: (next) => {
      help.textContent = helpOf(field, next);
      setInput(field, input, next);
    },
    tell: (problems) => {
      const unreadable = field.kind === "json" ? jsonProblem(input.value) : "";
      const said = problems.map(({ rest, message }) => (rest ? `${rest}: ${message}` : message));
      problem.textContent = unreadable || said.join("; ");
      input.setAttribute("aria-invalid", problem.textContent ? "true" : "false");
    },
  };
  const more = aside?.(made);
  if (more) {
    const row = h("div", { class: "with-aside" });
    input.replaceWith(row);
    row.append(input, /** @type {Node} */ (more));
  }
  return made;
}

/**
 * Whether a field belongs to another choice than the chosen one; not where it holds a mistake, which
 * must be seen to be corrected.
 * @param {Control} control @param {unknown} chosen
 */
export function isOfAnother({ field, input }, chosen) {
  const isWrong = input.getAttribute("aria-invalid") === "true";
  return Boolean(field.onlyFor && chosen && !field.onlyFor.includes(String(chosen)) && !isWrong);
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
  return textInput(field, id, value, changed);
}

/** @param {Field} field @param {string} id @param {any} value @param {(value: unknown) => unknown} changed */
function textInput(field, id, value, changed) {
  const numeric = NUMERIC.includes(field.kind);
  const props = {
    id,
    value: showValue(value),
    spellcheck: "false",
    autocomplete: "off",
    placeholder: field.nullable ? "none" : null,
    oninput: () => changed(readValue(field, input.value)),
  };
  const input =
    field.kind === "json"
      ? h("textarea", { ...props, class: "field json-text", rows: "2" })
      : h("input", {
          ...props,
          class: numeric ? "field num" : "field wide",
          inputmode: numeric ? "decimal" : null,
          list: SUGGESTIONS[field.path] ? `${id}-list` : null,
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
  if (low === undefined || high === undefined) return [field.help, formOf(field)].filter(Boolean).join(" ");
  const [from, to] = [low.toLocaleString("en-US"), high.toLocaleString("en-US")];
  if (field.schema.exclusiveMinimum !== undefined) return `${field.help} Above ${from}, up to ${to}.`;
  return `${field.help} ${from} to ${to}.`;
}

/** @param {Field} field @param {FieldInput} input @param {any} value */
function setInput(field, input, value) {
  if (input instanceof HTMLInputElement && input.type === "checkbox") input.checked = Boolean(value);
  else if (field.kind === "boolean") input.value = String(value ?? "");
  else input.value = field.kind === "choice" ? (value ?? field.options?.[0]) : showValue(value);
}
