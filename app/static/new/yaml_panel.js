// The YAML beside the form: typed, pasted, dropped or uploaded; mistakes stand at their lines.
import { button, copyButton, fill, h } from "../lib/dom.js";
import { plain } from "../lib/format.js";

const MAX_BYTES = 64_000; // as opd.config.drafts.yaml_text
const [FEWEST_LINES, MOST_LINES] = [8, 28]; // shown at once
const COMMENT = /^\s*#|\s#/m;

export class YamlPanel {
  /**
   * `edited` is told of new text, with the file's name where it came from one; `restored` takes
   * back what the form wrote.
   * @param {(text: string, file: string) => unknown} edited
   * @param {() => unknown} openRun
   */
  constructor(edited, openRun) {
    this.edited = edited;
    this.typed = false;
    this.area = h("textarea", {
      id: "yaml",
      class: "yaml-text",
      "aria-label": "YAML",
      "aria-describedby": "yaml-note yaml-problems",
      wrap: "off",
      spellcheck: "false",
      autocomplete: "off",
      autocapitalize: "off",
      oninput: () => this.input(""),
      onscroll: () => {
        this.gutter.scrollTop = this.area.scrollTop;
      },
    });
    this.gutter = h("div", { class: "yaml-lines", "aria-hidden": "true" });
    this.note = h("p", { id: "yaml-note", class: "caption yaml-note", role: "status" });
    this.problems = h("ul", { id: "yaml-problems", class: "yaml-problems" });
    this.file = h("input", {
      type: "file",
      id: "yaml-file",
      class: "offscreen",
      tabindex: "-1",
      "aria-label": "YAML file",
      accept: ".yaml,.yml,text/yaml,text/plain",
      onchange: () => this.file.files?.[0] && this.read(this.file.files[0]),
    });
    this.element = h(
      "section",
      { class: "panel yaml-panel", "aria-label": "Configuration as YAML" },
      h(
        "header",
        {},
        h("h2", { text: "YAML" }),
        h("span", { class: "spacer" }),
        button("Open file…", () => this.file.click(), { class: "btn small", id: "yaml-open" }),
        button("Open from run…", openRun, { class: "btn small", id: "yaml-run" }),
        copyButton("Copy", () => this.text),
        this.file,
      ),
      h("div", { class: "yaml-editor" }, this.gutter, this.area),
      this.problems,
      this.note,
    );
    this.takeDrops();
  }

  get text() {
    return this.area.value;
  }

  /** Text of a form: replaces what was typed, and says so. @param {string} text */
  write(text) {
    const lost = this.typed && text !== this.text ? this.text : null;
    if (text !== this.text) this.put(text);
    this.typed = false;
    if (lost === null) return;
    const comments = COMMENT.test(lost) ? " Its comments are gone." : "";
    const back = button("Bring my text back", () => this.restore(lost), { class: "btn small" });
    fill(this.note, h("span", { text: `The form has rewritten the YAML.${comments} ` }), back);
  }

  /** @param {string} text */
  restore(text) {
    this.put(text);
    this.input("");
    this.area.focus();
  }

  /** The text is another; it goes to whoever checks it. @param {string} file */
  input(file) {
    this.typed = true;
    this.number();
    this.say("");
    this.edited(this.text, file);
  }

  /** @param {string} text */
  put(text) {
    this.area.value = text;
    this.area.scrollTop = 0;
    this.number();
  }

  number() {
    const count = this.text.split("\n").length;
    this.area.rows = Math.max(FEWEST_LINES, Math.min(MOST_LINES, count));
    if (this.gutter.childElementCount === count) return;
    fill(
      this.gutter,
      Array.from({ length: count }, (_, i) => h("div", { text: String(i + 1) })),
    );
  }

  /** @param {string} text */
  say(text) {
    this.note.textContent = text;
  }

  /** @param {FieldProblem[]} problems */
  showProblems(problems) {
    const lines = [...this.gutter.children];
    const bad = new Set(problems.map((p) => Math.min(p.line ?? 0, lines.length)));
    lines.forEach((line, i) => {
      line.classList.toggle("bad", bad.has(i + 1));
    });
    this.area.setAttribute("aria-invalid", problems.length ? "true" : "false");
    const inOrder = [...problems].sort((a, b) => (a.line ?? 1e9) - (b.line ?? 1e9));
    fill(
      this.problems,
      inOrder.map((p) => h("li", {}, this.problem(p))),
    );
  }

  /** @param {FieldProblem} problem */
  problem({ field, message, line }) {
    const name = field && !message.includes(`${field} `) ? h("b", { text: `${plain(field, 120)}: ` }) : null;
    const text = plain(message, 600);
    if (!line) return h("span", {}, name, text);
    return h(
      "button",
      { type: "button", class: "yaml-problem", onclick: () => this.goTo(line) },
      h("span", { class: "yaml-line", text: `line ${line}` }),
      h("span", {}, name, text),
    );
  }

  /** Selects a line, counted from 1. @param {number} line */
  goTo(line) {
    const lines = this.text.split("\n");
    const number = Math.min(line, lines.length);
    const start = lines.slice(0, number - 1).join("\n").length + (number > 1 ? 1 : 0);
    this.area.focus();
    this.area.setSelectionRange(start, start + lines[number - 1].length);
    const height = this.area.scrollHeight / lines.length;
    this.area.scrollTop = Math.max(0, (number - 4) * height);
    this.area.scrollLeft = 0;
  }

  /** @param {File} file */
  async read(file) {
    this.file.value = "";
    let text;
    try {
      text = await textOf(file);
    } catch (error) {
      this.say(error.message);
      this.note.classList.add("bad-text");
      return;
    }
    this.note.classList.remove("bad-text");
    this.put(text);
    this.input(file.name);
  }

  takeDrops() {
    /** @param {DragEvent} event */
    const holdsFile = (event) => event.dataTransfer?.types.includes("Files");
    this.element.addEventListener("dragover", (event) => {
      if (!holdsFile(event)) return;
      event.preventDefault();
      this.element.classList.add("drop");
    });
    this.element.addEventListener("dragleave", () => this.element.classList.remove("drop"));
    this.element.addEventListener("drop", (event) => {
      this.element.classList.remove("drop");
      if (!holdsFile(event)) return;
      event.preventDefault();
      const [file] = event.dataTransfer?.files ?? [];
      if (file) this.read(file);
    });
  }
}

/** The text of a YAML file. Throws for what is too large or is not text. @param {File} file */
async function textOf(file) {
  const name = plain(file.name, 80);
  if (file.size > MAX_BYTES) {
    const [size, most] = [file.size, MAX_BYTES].map((n) => n.toLocaleString("en-US"));
    throw new Error(`${name} has ${size} bytes; a configuration has at most ${most}. Nothing was changed.`);
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  try {
    if (bytes.includes(0)) throw new TypeError("holds a zero byte");
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Error(`${name} is not a text file in UTF-8; choose a YAML file. Nothing was changed.`);
  }
}
