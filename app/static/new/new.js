// Sets up a run: recipe, six fields, the rest under "More settings"; YAML and command beside them.
import { get, newKey, page, send } from "../lib/api.js";
import { button, debounce, fill, h, poll, select, toast } from "../lib/dom.js";
import { plain } from "../lib/format.js";
import { failed, loading } from "../lib/panel_states.js";
import { HostsMenu } from "../lib/server/hosts.js";
import { changesPanel } from "./changes.js";
import { commandPanel } from "./command.js";
import { Doctor } from "./doctor.js";
import { assign, fieldsOf, valueAt } from "./fields.js";
import { control, isOfAnother } from "./form.js";
import { moreSettings } from "./more_settings.js";
import { pickerAside } from "./picker/aside.js";
import { PromptPreview } from "./preview.js";
import { chooseRun } from "./run_chooser.js";
import { sectionsControl } from "./sub_forms.js";
import { YamlPanel } from "./yaml_panel.js";

const HOSTS_EVERY = 2000; // ms, of which the menu uses some

// Which choice decides what else of a section is shown
/** @type {Record<string, string>} */
const CHOOSERS = {
  objective: "objective.name",
  prompts: "prompts.grader",
  sampling: "sampling.engine",
  teacher: "teacher.kind",
};

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
  /** @type {YamlPanel} */
  yaml;
  /** @type {HTMLElement} */
  command;
  /** @type {HTMLElement} */
  difference;
  /** @type {HTMLButtonElement} */
  startButton;
  /** @type {Doctor} */
  doctor;
  /** @type {PromptPreview} */
  preview;
  /** @type {HTMLDetailsElement} */
  moreBox;
  /** What is blocked while the YAML cannot be read. @type {HTMLElement} */
  settings;
  /** @type {HTMLElement} */
  blocked;
  /** @type {HTMLSelectElement | null} */
  picker = null;

  /** @param {HTMLElement} root @param {URLSearchParams} params */
  constructor(root, params) {
    this.root = root;
    this.from = params.get("from") ?? "";
    this.recipe = params.get("recipe") ?? "";
    this.key = newKey();
    this.turn = 0;
    this.hosts = new HostsMenu();
    this.fromYaml = false; // which of form and YAML was edited last
    this.file = ""; // the YAML file that the settings came from
    this.freshFile = false; // changes count from what the next check makes of it
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
    this.hosts.refresh();
    poll(HOSTS_EVERY, () => this.hosts.refresh());
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
    this.controls = new Map(this.fields.map((f) => [f.path, this.controlOf(f)]));
    this.general = h("p", { class: "bad-text", role: "alert" });
    this.yaml = new YamlPanel(
      (_, file) => this.yamlEdited(file),
      () => chooseRun(),
    );
    this.command = h("pre", { class: "code wrap", tabindex: "0", "aria-label": "Command" });
    this.difference = h("div", { class: "difference" });
    this.startButton = button("Start run", () => this.launch(), { class: "btn strong", id: "start-run" });
    this.doctor = new Doctor(
      () => this.config,
      (problems) => this.showProblems(problems),
    );
    this.preview = new PromptPreview(
      () => this.config,
      (problems) => this.showProblems(problems),
    );
    const source = this.controls.get("prompts.source")?.element;
    source?.querySelector(".form-control")?.append(this.preview.opener);
    const visible = this.form.visible;
    /** @param {string} path */
    const picked = (path) => this.controls.get(path)?.element;
    this.moreBox = moreSettings(this.fields, this.controls, visible);
    this.blocked = h("div", { class: "form-block", role: "status", hidden: true });
    this.settings = h(
      "div",
      {},
      this.source ? this.cloneHead() : this.recipePicker(),
      h("div", { class: "fields" }, picked("name"), visible.map(picked)),
      this.moreBox,
    );
    const form = h(
      "section",
      { class: "panel form", "aria-label": "Settings" },
      this.blocked,
      this.settings,
      h("div", { class: "form-foot" }, this.startButton, this.general),
    );
    const side = h(
      "div",
      { class: "new-side" },
      this.preview.element,
      this.doctor.element,
      this.yaml.element,
      this.difference,
      commandPanel(this.command),
    );
    const title = this.source ? `New run from ${plain(this.source.name || this.source.id, 60)}` : "New run";
    fill(
      this.root,
      h("div", { class: "page-bar" }, h("h1", { text: title }), this.hosts.element),
      h("div", { class: "new-columns" }, form, side),
    );
    this.showSwitches();
  }

  /** @param {Field} field */
  controlOf(field) {
    const value = valueAt(this.config, field.path);
    /** @param {unknown} next */
    const changed = (next) => this.changed(field.path, next);
    if (field.kind === "sections")
      return sectionsControl(field, value, changed, (_, part) => pickerAside(part, field.path));
    return control(field, value, changed, { aside: pickerAside });
  }

  recipePicker() {
    const recipes = this.form.recipes ?? [];
    const current = () => recipes.find((r) => r.name === this.recipe);
    const about = h("p", { class: "muted", text: current()?.description ?? "" });
    /** @type {Option[]} */
    const options = recipes.map((r) => [r.name, r.title || r.name]);
    options.unshift(["", "none: from a YAML file", { hidden: true }]);
    this.picker = select(
      options,
      this.recipe,
      (name) => {
        this.file = "";
        this.useBase(this.recipeConfig(name));
        about.textContent = current()?.description ?? "";
        this.fromForm();
        this.showValues();
      },
      { id: "recipe", class: "field" },
    );
    return h("div", { class: "recipe" }, h("label", { for: "recipe", text: "Recipe" }), this.picker, about);
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
      for (const [p, c] of this.controls) if (p.startsWith(`${path}.`)) c.set(valueAt(this.config, p));
      this.showSwitches();
    } else {
      assign(this.config, path, value);
      if (field.choices) {
        control.set(value);
        this.showSwitches();
      }
    }
    this.fromForm();
  }

  fromForm() {
    this.fromYaml = false;
    this.again();
  }

  /** Until the text is checked, the form shows other settings: it waits, and so does the start. @param {string} file */
  yamlEdited(file) {
    this.fromYaml = true;
    if (file) {
      this.file = file;
      this.freshFile = true;
      this.recipe = "";
      if (this.picker) this.picker.value = "";
    }
    this.again();
    this.settings.inert = true;
    this.startButton.disabled = true;
  }

  showValues() {
    for (const [path, c] of this.controls) c.set(valueAt(this.config, path));
    this.showSwitches();
  }

  /** Fields inside a switched-off section are hidden; those of another choice, too, unless they hold a mistake. */
  showSwitches() {
    const named = String(valueAt(this.config, "teacher.kind")) !== "remote"; // a server's model is no local one
    this.controls.get("teacher.model")?.element.classList.toggle("no-pick", !named);
    const off = this.fields
      .filter((f) => f.kind === "switch" && !valueAt(this.config, f.path))
      .map((f) => `${f.path}.`);
    for (const [path, c] of this.controls) {
      const chosen = valueAt(this.config, CHOOSERS[c.field.group] ?? "");
      c.element.hidden = off.some((p) => path.startsWith(p)) || isOfAnother(c, chosen);
    }
  }

  /** A changed form is another run: it gets another key, and what is said of the last one is late. */
  again() {
    this.key = newKey();
    this.turn++;
    this.startButton.disabled = false;
    this.doctor.stale();
    this.preview.stale();
    this.check();
  }

  async runCheck() {
    const { turn } = this;
    let answer;
    try {
      answer = await send("POST", "config/check", {
        ...(this.fromYaml ? { yaml: this.yaml.text } : { config: this.config }),
        ...(this.recipe ? { recipe: this.recipe } : {}),
      });
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
    const config = answer.config ?? answer.draft?.config;
    if (!this.fromYaml) {
      const text = answer.yaml ?? answer.draft?.yaml;
      if (text !== undefined) this.yaml.write(text);
    } else if (config) {
      this.config = config;
      if (this.freshFile) this.base = structuredClone(config);
      this.freshFile = false;
      this.showValues();
    }
    this.block(this.fromYaml && !config);
    this.yaml.showProblems(answer.problems);
    this.showProblems(this.fromYaml && !config ? [] : answer.problems);
    this.startButton.disabled = !answer.ok;
    this.command.classList.toggle("stale", !answer.ok);
    if (answer.ok) this.command.textContent = answer.command;
    const origin = this.source ? "the run" : this.file ? "the file" : "the recipe";
    fill(this.difference, changesPanel(this.base, this.config, origin));
  }

  /** While the YAML cannot be read, editing the form would throw it away. @param {boolean} blocked */
  block(blocked) {
    this.settings.inert = blocked;
    this.settings.classList.toggle("unreadable", blocked);
    this.blocked.hidden = !blocked;
    if (!blocked) return;
    const back = button("Discard the YAML and use the form", () => this.fromForm(), { class: "btn small" });
    fill(this.blocked, "The YAML cannot be read: correct it, and the form follows.", back);
  }

  /** @param {FieldProblem[]} problems */
  showProblems(problems) {
    /** @type {string[]} */
    const left = [];
    /** @type {Map<string, NestedProblem[]>} */
    const byPath = new Map();
    for (const { field, message } of problems) {
      const path = this.nearest(field);
      if (path)
        byPath.set(path, [...(byPath.get(path) ?? []), { rest: field.slice(path.length + 1), message }]);
      else left.push(field ? `${field}: ${message}` : message);
    }
    for (const [path, c] of this.controls) c.tell(byPath.get(path) ?? []);
    this.showSwitches();
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
