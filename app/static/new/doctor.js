// Checks a run before it is started: asks the doctor, and shows its findings and the memory table.
import { get, send } from "../lib/api.js";
import { button, fill, h, poll } from "../lib/dom.js";
import { withUnit } from "../lib/format.js";
import { errorBox } from "../lib/panel_states.js";

const SEVERITIES = [
  ["error", "✕", "Error"],
  ["warning", "!", "Warning"],
  ["info", "i", "Note"],
  ["ok", "✓", "OK"],
];
const LOOK_EVERY = 700; // ms
/** @type {Record<string, string>} */
const PHASES = {
  always: "always",
  sampling: "sampling",
  writing: "teacher sampling",
  reading: "teacher scoring",
  update: "update",
};

export class Doctor {
  /**
   * `configOf` gives the form's configuration; `onProblems` shows those of its fields.
   * @param {() => object} configOf @param {(problems: FieldProblem[]) => unknown} onProblems
   */
  constructor(configOf, onProblems) {
    this.configOf = configOf;
    this.onProblems = onProblems;
    this.stopLooking = () => {};
    this.button = button("Check before running", () => this.ask(), { id: "run-doctor" });
    this.models = h("input", { type: "checkbox", id: "doctor-models", checked: true });
    this.state = h("p", {
      class: "pad muted doctor-state",
      role: "status",
      text: "Checks tokenizers, prompts and memory, and samples a few completions from the student.",
    });
    this.body = h("div", { class: "doctor-body", id: "doctor-findings" });
    const choice = h(
      "label",
      { class: "control muted", for: "doctor-models" },
      this.models,
      "load the models",
    );
    this.element = h(
      "section",
      { class: "panel doctor", "aria-label": "Doctor" },
      h("header", {}, h("h2", { text: "Doctor" }), h("span", { class: "spacer" }), choice, this.button),
      this.state,
      this.body,
    );
  }

  /** The findings are of other settings than those in the form now. */
  stale() {
    if (!this.body.childElementCount || this.button.disabled) return;
    this.body.classList.add("stale");
    this.say("The settings have changed since this check.");
  }

  async ask() {
    this.stopLooking();
    this.button.disabled = true;
    this.body.classList.remove("stale");
    fill(this.body);
    this.say("Starting …");
    try {
      const { id } = await send("POST", "doctor", { config: this.configOf(), models: this.models.checked });
      this.stopLooking = poll(LOOK_EVERY, () => this.look(id));
    } catch (error) {
      this.onProblems(error.problems ?? []);
      this.end(errorBox(error, null));
    }
  }

  /** @param {string} id */
  async look(id) {
    let state;
    try {
      state = await get(`doctor/${id}`);
    } catch (error) {
      if (error.status !== 0) this.end(errorBox(error, () => this.ask()));
      return;
    }
    this.show(state);
    if (state.state === "failed") {
      this.end(
        ...this.parts(state),
        errorBox({ message: state.error_text, hint: state.hint }, () => this.ask()),
      );
    } else if (state.state === "done") {
      this.end(...this.parts(state));
      this.say(summary(state.findings));
    }
  }

  /** @param {DoctorState} state */
  show(state) {
    if (state.state === "queued") this.say("Waiting for the model process …");
    if (state.state !== "running") return;
    this.say(`${state.phase[0].toUpperCase()}${state.phase.slice(1)} …`);
    fill(this.body, this.parts(state));
  }

  /** @param {DoctorState} state */
  parts(state) {
    const items = SEVERITIES.flatMap(([severity]) => state.findings.filter((f) => f.severity === severity));
    const loud = items.filter((f) => f.severity !== "ok");
    const quiet = items.filter((f) => f.severity === "ok");
    return [
      loud.map(card),
      quiet.length
        ? h(
            "details",
            { class: "doctor-ok" },
            h("summary", {}, mark("ok"), `${quiet.length} check${quiet.length > 1 ? "s" : ""}`),
            quiet.map(card),
          )
        : null,
      state.memory ? memoryTable(state.memory) : null,
    ];
  }

  /** @param {...Child} parts */
  end(...parts) {
    this.stopLooking();
    this.button.disabled = false;
    this.say("");
    fill(this.body, parts);
  }

  /** @param {string} text */
  say(text) {
    this.state.textContent = text;
    this.state.hidden = !text;
  }
}

/** @param {DoctorFinding[]} findings */
function summary(findings) {
  /** @param {string} severity */
  const count = (severity) => findings.filter((f) => f.severity === severity).length;
  const [errors, warnings] = [count("error"), count("warning")];
  if (!errors && !warnings) return "No problems found.";
  /** @param {number} n @param {string} word */
  const counted = (n, word) => (n ? `${n} ${word}${n > 1 ? "s" : ""}` : "");
  return [counted(errors, "error"), counted(warnings, "warning")].filter(Boolean).join(", ");
}

/** @param {string} severity */
function mark(severity) {
  const [, icon, word] = SEVERITIES.find(([key]) => key === severity) ?? SEVERITIES[2];
  return h(
    "span",
    { class: `severity ${severity}` },
    h("span", { class: "severity-icon", "aria-hidden": "true", text: icon }),
    word,
  );
}

/** @param {DoctorFinding} finding */
function card(finding) {
  const evidence = Object.keys(finding.evidence ?? {}).length
    ? h(
        "details",
        { class: "doctor-evidence" },
        h("summary", { text: "Evidence" }),
        h("pre", { class: "code wrap", text: JSON.stringify(finding.evidence, null, 1) }),
      )
    : null;
  return h(
    "article",
    { class: "doctor-finding", "data-code": finding.code, "data-severity": finding.severity },
    h("h3", {}, mark(finding.severity), h("span", { text: finding.title })),
    h("p", { text: finding.text }),
    finding.advice
      ? h("p", { class: "doctor-advice" }, h("strong", { text: "What to change: " }), finding.advice)
      : null,
    evidence,
  );
}

/** @param {MemoryEstimate} memory */
function memoryTable(memory) {
  /** @param {number} bytes */
  const size = (bytes) => withUnit(bytes, "B");
  const rows = memory.parts.map((p) =>
    h(
      "tr",
      {},
      h("td", {}, p.name, h("div", { class: "muted doctor-formula", text: p.formula })),
      h("td", { text: p.where === "host" ? "host" : (PHASES[p.phase] ?? p.phase) }),
      h("td", { class: "r num", text: size(p.bytes) }),
    ),
  );
  /** @param {string} label @param {number} bytes */
  const total = (label, bytes) =>
    h(
      "tr",
      { class: "doctor-total" },
      h("td", { text: label }),
      h("td", {}),
      h("td", { class: "r num", text: size(bytes) }),
    );
  return h(
    "details",
    { class: "doctor-memory", open: true },
    h("summary", {}, "Memory: about ", h("strong", { class: "num", text: size(memory.device) })),
    h(
      "table",
      { class: "table", id: "doctor-memory" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { text: "part" }),
          h("th", { text: "when" }),
          h("th", { class: "r", text: "size" }),
        ),
      ),
      h(
        "tbody",
        {},
        rows,
        total("Peak", memory.device),
        memory.host ? total("Host memory", memory.host) : null,
      ),
    ),
    memory.unknown.length
      ? h("p", {
          class: "pad muted",
          text: `Not counted, size unknown: ${memory.unknown.join(", ")}.`,
        })
      : null,
  );
}
