// Who judged a rollout, and what it read: the teacher's prompt in the student's place.
import { button, fill, h } from "../lib/dom.js";
import { integer, plain } from "../lib/format.js";
import { oncePerObject, sameTokens } from "./state.js";
import { cellsOfTexts } from "./text/glyphs.js";

// Marks of chat templates, words with the blanks before them, single blanks and line ends.
const WORDS =
  /<[|｜][^|｜<>\n]{1,40}[|｜]>|<(?:start|end)_of_turn>|\[\/?INST\]|<\/?\w{1,20}>|[^\S\n]?[^\s<[]+|\s|[<[]/g;

/** A teacher's name, after the rows that it takes. @param {Teacher} teacher */
function named({ route, name }) {
  const shown = plain(name.split("/").slice(-1)[0], 48);
  return route ? `${plain(route, 40)}: ${shown}` : shown;
}

/** All teachers in a line, of one run. @param {Teacher[]} teachers */
export function teacherNames(teachers) {
  return teachers.map(named).join(", ");
}

/** Which teacher judged, for the rollout's head. @param {RolloutMeta} meta */
export function teacherTag({ teacher = null, teachers = [] }) {
  const judge = teachers.find(({ path }) => path === teacher);
  if (judge ? teachers.length < 2 : !teacher && teachers.length < 2) return null;
  const all = teachers.length > 1 ? `${teacherNames(teachers)}. ` : "";
  if (!teacher) {
    const title = `${all}Which of them judged this rollout was not recorded.`;
    return h("span", { class: "tag rt-judge", text: `one of ${integer(teachers.length)} teachers`, title });
  }
  const name = judge ? named(judge) : plain(teacher, 60);
  return h("span", {
    class: "tag rt-judge",
    text: `judged by ${name}`,
    title: `${all}This rollout: ${name}.`,
  });
}

/**
 * The rollout as its text is laid out: with the prompt that the student read, or the teacher's.
 * @param {Rollout} rollout @param {PromptReader} reader @returns {Rollout}
 */
export function shownAs(rollout, reader) {
  return reader === "teacher" && typeof rollout.meta.teacher_prompt === "string"
    ? asTeacher(rollout)
    : rollout;
}

const asTeacher = oncePerObject((/** @type {Rollout} */ rollout) =>
  Object.freeze({
    ...rollout,
    cells: rollout.cells.slice(), // turns are kept by this list
    promptCells: cellsOfTexts((rollout.meta.teacher_prompt ?? "").match(WORDS) ?? []),
  }),
);

export class TeacherPrompt {
  /** `choose` is called with whose prompt is to stand above the completion. @param {(reader: PromptReader) => unknown} choose */
  constructor(choose) {
    this.choices = /** @type {PromptReader[]} */ (["student", "teacher"]).map((reader) =>
      button(reader === "student" ? "Student" : "Teacher", () => choose(reader), {
        class: "btn small",
        "data-reader": reader,
        title: `The prompt as the ${reader} read it (t)`,
      }),
    );
    this.switch = h(
      "span",
      { class: "prompt-switch", role: "group", "aria-label": "Prompt as read by" },
      this.choices,
    );
    this.note = h("span", { class: "rt-prompt-note" });
    this.line = h("summary", { text: "Templates" });
    this.full = h("div", { class: "rt-answers-full" });
    this.details = h("details", { class: "rt-templates" }, this.line, this.full);
    this.element = h(
      "div",
      { class: "rt-prompt", hidden: true },
      h("span", { class: "muted", text: "Prompt" }),
      this.switch,
      this.note,
      this.details,
    );
  }

  /** @param {RolloutMeta} meta @param {PromptReader} reader */
  show(meta, reader) {
    const { teacher = null, teachers = [], teacher_prompt: text = null } = meta;
    const judge = teachers.find(({ path }) => path === teacher);
    const hinting = (judge ? [judge] : teachers).filter(({ prompt, system }) => prompt || system);
    const unrecorded = !teacher && hinting.length > 0;
    this.element.hidden = text === null && !unrecorded;
    if (this.element.hidden) return;
    this.switch.hidden = text === null;
    const note = noteOf(judge, teachers, hinting, unrecorded);
    this.note.textContent = note;
    this.note.title = note;
    this.mark(reader);
    const templates = hinting.flatMap((one) => [
      one.system && template(`${named(one)}, system message`, one.system),
      one.prompt && template(`${named(one)}, in place of the prompt`, one.prompt),
    ]);
    this.details.hidden = !templates.length;
    fill(this.full, templates);
  }

  /** @param {PromptReader} reader */
  mark(reader) {
    for (const choice of this.choices)
      choice.setAttribute("aria-pressed", String(choice.dataset.reader === reader));
  }
}

/**
 * @param {Teacher | undefined} judge @param {Teacher[]} teachers
 * @param {Teacher[]} hinting @param {boolean} unrecorded
 */
function noteOf(judge, teachers, hinting, unrecorded) {
  if (!unrecorded) {
    const name = judge && teachers.length > 1 ? named(judge) : "the teacher";
    const parts = [judge?.system && "a system message", judge?.prompt && "a template in its place"];
    const why = parts.filter(Boolean).join(" and ");
    return `${name} read another prompt than the student${why ? `: ${why}` : ""}`;
  }
  const who = hinting.length === teachers.length ? "the teacher read" : `${teacherNames(hinting)} reads`;
  return `${who} another prompt than the student; the rendered text was not recorded`;
}

/** @param {string} name @param {string} text */
function template(name, text) {
  const lines = text.split(/\r?\n/).map((line) => plain(line, line.length));
  return h("div", {}, h("h2", { text: name }), h("pre", { class: "wrap", text: lines.join("\n") }));
}

/**
 * Whether the text of two rollouts is the same, the prompt of the chosen reader before it.
 * @param {Rollout} one @param {Rollout} other @param {PromptReader} reader
 */
export function sameText(one, other, reader) {
  if (!sameTokens(one, other)) return false;
  return reader === "student" || one.meta.teacher_prompt === other.meta.teacher_prompt;
}
