// The run's prompts before it starts: rows as read, and the first prompts as both models will read
// them, asked of the model process.
import { button, fill, h, select } from "../lib/dom.js";
import { integer, plain } from "../lib/format.js";
import { ModelRequest, progressText } from "../lib/model_request.js";
import { errorBox } from "../lib/panel_states.js";
import { promptCard, rowName } from "./preview_card.js";

const SUITES = "evaluation.suites.";
const FIELD = /^([a-z_]+(?:\.[\w-]+)*): /; // that an error begins with

export class PromptPreview {
  /**
   * `configOf` gives the form's configuration; `onProblems` shows those of its fields.
   * @param {() => Config} configOf @param {(problems: FieldProblem[]) => unknown} onProblems
   */
  constructor(configOf, onProblems) {
    this.configOf = configOf;
    this.onProblems = onProblems;
    this.name = "train";
    this.request = new ModelRequest({
      change: (state) => this.say(progressText(state)),
      done: (answer) => this.show(answer),
      failed: (error) => this.failed(error),
    });
    this.opener = button("Preview prompts", () => this.open(), {
      class: "btn small",
      id: "preview-prompts",
      "aria-expanded": "false",
      "aria-controls": "prompt-preview",
    });
    this.chooser = h("span", {});
    this.again = button("Refresh", () => this.ask(), { class: "btn small" });
    this.state = h("p", { class: "pad muted", role: "status" });
    this.body = h("div", { class: "preview-body" });
    this.title = h("h2", { text: "Prompts", tabindex: "-1" });
    this.element = h(
      "section",
      { class: "panel preview", id: "prompt-preview", "aria-label": "Preview of prompts", hidden: true },
      h(
        "header",
        {},
        this.title,
        this.chooser,
        h("span", { class: "spacer" }),
        this.again,
        button("Close", () => this.close(), { class: "btn small", "aria-label": "Close the preview" }),
      ),
      this.state,
      this.body,
    );
  }

  open() {
    this.element.hidden = false;
    this.opener.setAttribute("aria-expanded", "true");
    this.title.focus({ preventScroll: true });
    const { top } = this.element.getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) this.element.scrollIntoView({ block: "start" });
    this.ask();
  }

  close() {
    this.request.cancel();
    this.element.hidden = true;
    this.opener.setAttribute("aria-expanded", "false");
    this.opener.focus();
  }

  /** What is shown is of other settings than those in the form now. */
  stale() {
    if (this.element.hidden || this.request.busy || !this.body.childElementCount) return;
    this.body.classList.add("stale");
    this.say("The settings have changed since this preview.");
  }

  ask() {
    this.chooseSet();
    fill(this.body);
    this.body.classList.remove("stale");
    this.say("Starting …");
    this.request.ask("prompt-preview", { config: this.configOf(), prompts: this.name });
  }

  /** The sets that the configuration has now. */
  chooseSet() {
    const suites = Object.keys(this.configOf().evaluation?.suites ?? {});
    /** @type {Option[]} */
    const options = [
      ["train", "Training"],
      ["held-out", "Held out"],
      ["probe", "Probes"],
      ...suites.map((suite) => /** @type {Option} */ ([SUITES + suite, `Suite ${plain(suite, 40)}`])),
    ];
    if (!options.some(([name]) => name === this.name)) this.name = "train";
    const focused = this.chooser.contains(document.activeElement);
    const list = select(options, this.name, (name) => this.choose(name), {
      id: "preview-set",
      "aria-label": "Set of prompts",
    });
    fill(this.chooser, list);
    if (focused) list.focus();
  }

  /** @param {string} name */
  choose(name) {
    this.name = name;
    this.ask();
  }

  /** @param {ShownError} error */
  failed(error) {
    const field = FIELD.exec(error.message ?? "");
    const message = error.message.slice(field?.[0].length ?? 0);
    const problems = error.problems?.length ? error.problems : field ? [{ field: field[1], message }] : [];
    if (problems.length) this.onProblems(problems);
    this.say("");
    fill(
      this.body,
      errorBox(error, () => this.ask()),
    );
  }

  /** @param {PromptPreviewAnswer} seen */
  show(seen) {
    this.say("");
    fill(
      this.body,
      summary(seen),
      seen.problem ? problems(seen) : null,
      seen.note ? h("p", { class: "caption", text: seen.note }) : null,
      seen.prompts.map((prompt) => promptCard(prompt, seen.rows.source)),
    );
  }

  /** @param {string} text */
  say(text) {
    this.state.textContent = text;
    this.state.hidden = !text;
  }
}

/** @param {PromptPreviewAnswer} seen */
function summary(seen) {
  const { rows } = seen;
  const unused = (/** @type {string} */ role) => role || "not used";
  return h(
    "div",
    { class: "preview-rows" },
    h(
      "p",
      {},
      h("span", { title: rows.source, text: plain(fileName(rows.source), 200) }),
      ` read as ${plain(rows.form, 200)}`,
    ),
    h("p", { class: "muted", text: [counts(seen), lengths(seen)].filter(Boolean).join(" ") }),
    h(
      "ul",
      { class: "preview-columns", "aria-label": "Columns" },
      Object.entries(rows.columns).map(([name, role]) =>
        h(
          "li",
          { class: role ? "" : "muted" },
          h("span", { class: "mono", text: plain(name, 80) }),
          h("span", { class: "muted", text: unused(role) }),
        ),
      ),
    ),
  );
}

/** A file's name without its folders; other sources as they are. @param {string} source */
function fileName(source) {
  return source.startsWith("/") ? (source.split("/").at(-1) ?? source) : source;
}

/** @param {PromptPreviewAnswer} seen */
function counts({ rows, count, problem }) {
  const tried = rows.tried < rows.rows ? `, the first ${integer(rows.tried)} of them looked at` : "";
  const taken = problem ? "" : `${integer(count)} prompts of `;
  return `${taken}${integer(rows.rows)} rows${tried}; ${integer(rows.answers)} with an answer.`;
}

/** @param {PromptPreviewAnswer} seen */
function lengths({ count, counted, longest, too_long, overlong, problem }) {
  if (!counted) return "";
  const of = counted < count && !problem ? ` of the first ${integer(counted)}` : "";
  if (!too_long) return `The longest${of} has ${integer(longest)} tokens.`;
  const drop = overlong === "drop";
  const fate =
    too_long === 1
      ? `is too long and ${drop ? "is left out" : "stops the run"}`
      : `are too long and ${drop ? "are left out" : "stop the run"}`;
  return `The longest${of} has ${integer(longest)} tokens; ${integer(too_long)} ${fate}.`;
}

/** @param {PromptPreviewAnswer} seen */
function problems({ problem, rows }) {
  const more = rows.unusable - rows.problems.length;
  return h(
    "div",
    { class: "preview-problems", role: "alert" },
    h("p", {}, h("strong", { text: "The run cannot start: " }), plain(problem, 600)),
    rows.problems.length
      ? h(
          "details",
          { open: rows.problems.length < 4 },
          h("summary", { text: `${integer(rows.unusable)} rows cannot be used` }),
          h(
            "ul",
            {},
            rows.problems.map(({ row, message }) =>
              h(
                "li",
                {},
                h("span", { class: "mono", text: `${rowName(row, rows.source)}: ` }),
                plain(message, 600),
              ),
            ),
            more > 0 ? h("li", { text: `and ${integer(more)} more` }) : null,
          ),
        )
      : null,
  );
}
