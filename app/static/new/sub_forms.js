// A field of named sections (evaluation suites, routes to teachers): a form of its own for each.
import { button, fill, h } from "../lib/dom.js";
import { assign, valueAt } from "./fields.js";
import { control, isOfAnother } from "./form.js";

const FIRST = ["kind", "model", "source", "count", "grader"]; // shown before "More settings"
const CHOOSERS = ["kind", "grader"]; // which choice decides what else is shown
const NAMES = { "evaluation.suites": "suite", "teacher.routes": "route" };

/**
 * @param {Field} field @param {unknown} value @param {(value: unknown) => unknown} changed
 * @param {(field: Field, control: Control) => Child} aside what stands behind an input, as in control()
 * @returns {Control}
 */
export function sectionsControl(field, value, changed, aside) {
  return new Sections(field, value, changed, aside).control;
}

class Sections {
  /** @param {Field} field @param {any} value @param {(value: unknown) => unknown} changed @param {(field: Field, control: Control) => Child} aside */
  constructor(field, value, changed, aside) {
    this.field = field;
    this.changed = changed;
    this.aside = aside;
    this.word = /** @type {Record<string, string>} */ (NAMES)[field.path] ?? "entry";
    /** @type {Part[]} */
    this.parts = [];
    this.serial = 0;
    const id = `field-${field.path.replaceAll(".", "-")}`;
    this.list = h("div", { class: "parts" });
    this.problem = h("p", { class: "bad-text", id: `${id}-problem`, role: "alert" });
    const add = button(`Add ${this.word}`, () => this.add(), { class: "btn small", id: `${id}-add` });
    const element = h(
      "div",
      { class: "form-row wide", "data-field": field.path, role: "group", "aria-labelledby": `${id}-label` },
      h("span", { class: "form-label", id: `${id}-label`, text: field.title }),
      h(
        "div",
        { class: "form-control" },
        this.list,
        add,
        this.problem,
        h("p", { class: "help-text muted", text: field.help }),
      ),
    );
    this.control = {
      field,
      element,
      input: add,
      set: (/** @type {any} */ next) => this.set(next),
      tell: (/** @type {NestedProblem[]} */ problems) => this.tell(problems),
    };
    this.set(value);
  }

  /** @param {any} value */
  set(value) {
    const entries = value && typeof value === "object" && !Array.isArray(value) ? Object.entries(value) : [];
    this.parts = entries.map(([name, part]) => this.part(name, part));
    this.show();
  }

  show() {
    fill(
      this.list,
      this.parts.map((part) => part.element),
    );
    this.list.hidden = !this.parts.length;
  }

  add() {
    const names = this.parts.map((part) => part.name);
    let number = this.parts.length + 1;
    while (names.includes(`${this.word}-${number}`)) number += 1;
    const model = this.field.inner?.find((f) => f.path === "model" || f.path === "source");
    const start = model ? { [model.path]: model.standard } : {};
    const part = this.part(`${this.word}-${number}`, start);
    this.parts.push(part);
    this.show();
    part.title.focus();
    part.title.select();
    this.emit();
  }

  emit() {
    this.changed(Object.fromEntries(this.parts.map((part) => [part.name, part.value])));
  }

  /** @param {string} name @param {any} given @returns {Part} */
  part(name, given) {
    const value = given && typeof given === "object" ? structuredClone(given) : {};
    const scope = `${this.field.path.replaceAll(".", "-")}-${++this.serial}-`;
    const title = h("input", {
      class: "field",
      value: name,
      spellcheck: "false",
      "aria-label": `Name of this ${this.word}`,
      onchange: () => this.rename(part),
    });
    const controls = (this.field.inner ?? []).map((field) =>
      control(
        field,
        valueAt(value, field.path) ?? field.standard,
        (next) => {
          assign(value, field.path, next);
          if (field.choices) one(field.path).set(next);
          hide();
          this.emit();
        },
        { scope, aside: (made) => this.aside(field, made) },
      ),
    );
    /** @param {string} path */
    const one = (path) => /** @type {Control} */ (controls.find((c) => c.field.path === path));
    const hide = () => {
      const chooser = CHOOSERS.find((path) => controls.some((c) => c.field.path === path));
      const chosen = chooser && (valueAt(value, chooser) ?? one(chooser).field.standard);
      for (const made of controls) {
        made.element.classList.toggle("no-pick", String(chosen) === "remote");
        made.element.hidden = isOfAnother(made, chosen);
      }
    };
    /** @param {boolean} first */
    const shown = (first) =>
      controls.filter((c) => FIRST.includes(c.field.path) === first).map((c) => c.element);
    const more = h("details", {}, h("summary", { text: "More settings" }), shown(false));
    const remove = button("Remove", () => this.remove(part), {
      class: "btn small",
      "aria-label": `Remove ${name}`,
    });
    const element = h(
      "div",
      { class: "part", role: "group", "aria-label": name },
      h("div", { class: "part-head" }, title, remove),
      shown(true),
      more,
    );
    hide();
    /** @type {Part} */
    const part = { name, value, title, controls, element, more, hide };
    return part;
  }

  /** @param {Part} part */
  rename(part) {
    const name = part.title.value.trim();
    const taken = this.parts.some((other) => other !== part && other.name === name);
    if (!name || taken) {
      this.problem.textContent = name ? `${name} is already the name of another` : "a name must not be empty";
      part.title.value = part.name;
      return;
    }
    part.name = name;
    part.element.setAttribute("aria-label", name);
    this.emit();
  }

  /** @param {Part} part */
  remove(part) {
    this.parts = this.parts.filter((other) => other !== part);
    this.show();
    this.control.input.focus();
    this.emit();
  }

  /** Each problem beside its own field, what belongs to none below all. @param {NestedProblem[]} problems */
  tell(problems) {
    /** @type {string[]} */
    const left = [];
    /** @type {Map<Control, NestedProblem[]>} */
    const placed = new Map();
    for (const { rest, message } of problems) {
      const part = this.parts.find(({ name }) => rest === name || rest.startsWith(`${name}.`));
      const inside = part ? rest.slice(part.name.length + 1) : "";
      const control = part?.controls.find(
        ({ field }) => inside === field.path || inside.startsWith(`${field.path}.`),
      );
      if (!control || !part) {
        left.push(rest ? `${rest}: ${message}` : message);
        continue;
      }
      if (part.more.contains(control.element)) part.more.open = true;
      const inner = { rest: inside.slice(control.field.path.length + 1), message };
      placed.set(control, [...(placed.get(control) ?? []), inner]);
    }
    for (const { controls, hide } of this.parts) {
      for (const one of controls) one.tell(placed.get(one) ?? []);
      hide();
    }
    this.problem.textContent = left.join("; ");
  }
}
