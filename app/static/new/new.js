// Sets up a run: recipe, six fields, the rest under "More settings"; YAML and command beside them.
import { get, newKey, page, send } from "../lib/api.js";
import { button, copyButton, debounce, fill, h, select, toast } from "../lib/dom.js";
import { plain } from "../lib/format.js";
import { failed, loading } from "../lib/panel_states.js";
import { Doctor } from "./doctor.js";
import { assign, fieldsOf, flatten, valueAt } from "./fields.js";
import { control, setControl, showProblem } from "./form.js";

const GROUPS = [
  ["general", "General"],
  ["student", "Student"],
  ["teacher", "Teacher"],
  ["prompts", "Prompts"],
  ["objective", "Objective"],
  ["sampling", "Sampling"],
  ["optimizer", "Optimizer"],
  ["evaluation", "Evaluation"],
  ["records", "Token records"],
  ["checkpoints", "Checkpoints"],
  ["stop", "Ending early"],
];

// Which choice decides what else of a section is shown
/** @type {Record<string, string>} */
const CHOOSERS = { objective: "objective.name", teacher: "teacher.kind", prompts: "prompts.grader" };

/** @param {HTMLElement} root @param {URLSearchParams} params */
export function mount(root, params) {
  document.title = "New run · OPD Studio";
  new NewPage(root, params).start();
}

class NewPage {
  /** @type {ConfigForm} */
  form;
  /** @type {Run | null} */
  source;
  /** @type {Field[]} */
  fields;
  /** @type {Config} */
  base;
  /** @type {Config} */
  config;
  /** @type {Map<string, Control>} */
  controls;
  /** @type {HTMLElement} */
  general;
  /** @type {HTMLElement} */
  yaml;
  /** @type {HTMLElement} */
  command;
  /** @type {HTMLElement} */
  difference;
  /** @type {HTMLButtonElement} */
  startButton;
  /** @type {Doctor} */
  doctor;
  /** @type {HTMLDetailsElement} */
  moreBox;

  /** @param {HTMLElement} root @param {URLSearchParams} params */
  constructor(root, params) {
    this.root = root;
    this.from = params.get("from") ?? "";
    this.recipe = params.get("recipe") ?? "";
    this.key = newKey();
    this.turn = 0;
    this.check = debounce(200, () => this.runCheck());
    addEventListener("pageshow", (e) => e.persisted && this.again());
  }

  async start() {
    loading(this.root, "the form");
    try {
      const [form, source] = await Promise.all([
        get("config/schema"),
        this.from ? get(`runs/${this.from}`) : null,
      ]);
      this.form = form;
      this.source = source;
    } catch (error) {
      failed(this.root, error, () => this.start());
      return;
    }
    this.fields = fieldsOf(this.form.schema, this.form.defaults);
    this.useBase(this.source ? this.source.config : this.recipeConfig(this.recipe));
    this.build();
    this.runCheck();
  }

  /** @param {string} name */
  recipeConfig(name) {
    const recipes = this.form.recipes ?? [];
    const recipe =
      recipes.find((r) => r.name === name) ?? recipes.find((r) => r.name === "demo") ?? recipes[0];
    this.recipe = recipe?.name ?? "";
    return recipe?.config ?? this.form.defaults;
  }

  /** @param {any} config */
  useBase(config) {
    this.base = structuredClone(config);
    this.config = structuredClone(config);
  }

  build() {
    this.controls = new Map(
      this.fields.map((f) => [
        f.path,
        control(f, valueAt(this.config, f.path), (v) => this.changed(f.path, v)),
      ]),
    );
    this.general = h("p", { class: "bad-text", role: "alert" });
    this.yaml = h("pre", { class: "code", tabindex: "0", "aria-label": "YAML" });
    this.command = h("pre", { class: "code wrap", tabindex: "0", "aria-label": "Command" });
    this.difference = h("div", { class: "difference" });
    this.startButton = button("Start run", () => this.launch(), { class: "btn strong", id: "start-run" });
    this.doctor = new Doctor(
      () => this.config,
      (problems) => this.showProblems(problems),
    );
    const visible = this.form.visible;
    /** @param {string} path */
    const picked = (path) => this.controls.get(path)?.element;
    const form = h(
      "section",
      { class: "panel form", "aria-label": "Settings" },
      this.source ? this.cloneHead() : this.recipePicker(),
      h("div", { class: "fields" }, picked("name"), visible.map(picked)),
      this.more(visible),
      h("div", { class: "form-foot" }, this.startButton, this.general),
    );
    const side = h(
      "div",
      { class: "new-side" },
      this.difference,
      this.doctor.element,
      codePanel(
        "Command",
        this.command,
        copyButton("Copy", () => this.command.textContent),
      ),
      codePanel(
        "YAML",
        this.yaml,
        copyButton("Copy", () => this.yaml.textContent),
      ),
    );
    const title = this.source ? `New run from ${plain(this.source.name || this.source.id, 60)}` : "New run";
    fill(
      this.root,
      h("div", { class: "page-bar" }, h("h1", { text: title })),
      h("div", { class: "new-columns" }, form, side),
    );
    this.showSwitches();
  }

  recipePicker() {
    const recipes = this.form.recipes ?? [];
    const current = () => recipes.find((r) => r.name === this.recipe);
    const about = h("p", { class: "muted", text: current()?.description ?? "" });
    /** @type {Option[]} */
    const options = recipes.map((r) => [r.name, r.title || r.name]);
    const picker = select(
      options,
      this.recipe,
      (name) => {
        this.useBase(this.recipeConfig(name));
        about.textContent = current()?.description ?? "";
        for (const [path, c] of this.controls) setControl(c, valueAt(this.config, path));
        this.showSwitches();
        this.again();
      },
      { id: "recipe", class: "field" },
    );
    return h("div", { class: "recipe" }, h("label", { for: "recipe", text: "Recipe" }), picker, about);
  }

  cloneHead() {
    return h(
      "div",
      { class: "recipe" },
      h("p", {
        class: "muted",
        text: "All settings start as in that run; changes are listed beside the form.",
      }),
    );
  }

  /** @param {string[]} visible */
  more(visible) {
    const groups = GROUPS.map(([key, label]) => {
      const rest = this.fields.filter(
        (f) => f.group === key && f.path !== "name" && !visible.includes(f.path),
      );
      return rest.length
        ? h(
            "fieldset",
            {},
            h("legend", { text: label }),
            h(
              "div",
              { class: "fields" },
              rest.map((f) => this.controls.get(f.path)?.element),
            ),
          )
        : null;
    });
    this.moreBox = h("details", { class: "more" }, h("summary", { text: "More settings" }), groups);
    return this.moreBox;
  }

  /** @param {string} path @param {unknown} value */
  changed(path, value) {
    const control = this.controls.get(path);
    if (!control) return;
    const { field } = control;
    if (field.kind === "switch") {
      const filled = Object.fromEntries(
        this.fields
          .filter((f) => f.path.startsWith(`${path}.`))
          .map((f) => [f.path.split(".").at(-1), f.standard]),
      );
      assign(this.config, path, value ? filled : null);
      for (const [p, c] of this.controls)
        if (p.startsWith(`${path}.`)) setControl(c, valueAt(this.config, p));
      this.showSwitches();
    } else {
      assign(this.config, path, value);
      if (field.choices) {
        setControl(control, value);
        this.showSwitches();
      }
    }
    this.again();
  }

  /** Fields inside a switched-off section, and those of another choice, are hidden. */
  showSwitches() {
    const off = this.fields
      .filter((f) => f.kind === "switch" && !valueAt(this.config, f.path))
      .map((f) => `${f.path}.`);
    for (const [path, c] of this.controls) {
      const { onlyFor, group } = c.field;
      const chosen = onlyFor && valueAt(this.config, CHOOSERS[group]);
      c.element.hidden =
        off.some((p) => path.startsWith(p)) || Boolean(chosen && !onlyFor.includes(String(chosen)));
    }
  }

  /** A changed form is another run: it gets another key. */
  again() {
    this.key = newKey();
    this.startButton.disabled = false;
    this.doctor.stale();
    this.check();
  }

  async runCheck() {
    const turn = ++this.turn;
    let answer;
    try {
      answer = await send(
        "POST",
        "config/check",
        this.recipe ? { config: this.config, recipe: this.recipe } : { config: this.config },
      );
    } catch (error) {
      answer = {
        ok: false,
        problems: error.problems?.length ? error.problems : [{ field: "", message: error.message }],
      };
    }
    if (turn === this.turn) this.show(answer);
  }

  /** @param {ConfigCheck} answer */
  show(answer) {
    this.showProblems(answer.ok ? [] : answer.problems);
    this.startButton.disabled = !answer.ok;
    for (const code of [this.yaml, this.command]) code.classList.toggle("stale", !answer.ok);
    if (answer.ok) {
      this.yaml.textContent = answer.yaml;
      this.command.textContent = answer.command;
    }
    this.showDifference();
  }

  /** @param {FieldProblem[]} problems */
  showProblems(problems) {
    const left = [];
    const byPath = new Map();
    for (const problem of problems) {
      const path = this.nearest(problem.field);
      if (path) byPath.set(path, [byPath.get(path), problem.message].filter(Boolean).join("; "));
      else left.push(problem.field ? `${problem.field}: ${problem.message}` : problem.message);
    }
    for (const [path, c] of this.controls) showProblem(c, byPath.get(path) ?? "");
    const hidden = [...byPath.keys()].some((p) =>
      this.moreBox.contains(this.controls.get(p)?.element ?? null),
    );
    if (hidden) this.moreBox.open = true;
    this.general.textContent = left.join("; ");
  }

  /** The field that a problem's dotted name means, or the section around it. @param {string} name */
  nearest(name) {
    for (let path = name; path; path = path.includes(".") ? path.slice(0, path.lastIndexOf(".")) : "") {
      if (this.controls.has(path)) return path;
    }
    return "";
  }

  showDifference() {
    const before = flatten(this.base);
    const after = flatten(this.config);
    const paths = [...new Set([...Object.keys(before), ...Object.keys(after)])];
    const changed = paths.filter(
      (p) => JSON.stringify(before[p]) !== JSON.stringify(after[p]) && typeof after[p] !== "boolean",
    );
    if (!this.source && !changed.length) return fill(this.difference);
    /** @param {unknown} value */
    const text = (value) =>
      plain(
        value === undefined || value === null
          ? "none"
          : Array.isArray(value)
            ? value.join(", ")
            : String(value),
        60,
      );
    const rows = changed.map((p) =>
      h(
        "tr",
        {},
        h("td", { class: "mono", text: p }),
        h("td", { class: "r muted", text: text(before[p]) }),
        h("td", { class: "r", text: text(after[p]) }),
      ),
    );
    const origin = this.source ? "the run" : "the recipe";
    const body = rows.length
      ? h("table", { class: "table" }, h("tbody", {}, rows))
      : h("p", { class: "pad muted", text: "No changes: the same run again." });
    fill(
      this.difference,
      h("section", { class: "panel" }, h("header", {}, h("h2", { text: `Changes from ${origin}` })), body),
    );
  }

  async launch() {
    if (this.startButton.disabled) return;
    this.startButton.disabled = true;
    /** @type {Record<string, unknown>} */
    const body = { config: this.config, request_key: this.key };
    if (this.source) body.parent = this.source.id;
    const recipe = this.source ? this.source.recipe : this.recipe;
    if (recipe) body.recipe = recipe;
    try {
      const { id } = await send("POST", "runs", body);
      location.href = page("run", { id });
    } catch (error) {
      this.startButton.disabled = false;
      if (error.problems.length) this.showProblems(error.problems);
      else toast([error.message, error.hint].filter(Boolean).join(". "));
    }
  }
}

/** @param {string} title @param {HTMLElement} code @param {HTMLElement} copy */
function codePanel(title, code, copy) {
  return h(
    "section",
    { class: "panel" },
    h("header", {}, h("h2", { text: title }), h("span", { class: "spacer" }), copy),
    code,
  );
}
