// Who judged a rollout, and the templates of what the teacher read in place of the student's prompt.
import { fill, h } from "../lib/dom.js";
import { integer, plain } from "../lib/format.js";

/** A teacher's name, after the rows that it takes. @param {Teacher} teacher */
function named({ route, name }) {
  const shown = plain(name.split("/").slice(-1)[0], 48);
  return route ? `${plain(route, 40)}: ${shown}` : shown;
}

/** All teachers in a line, of one run. @param {Teacher[]} teachers */
export function teacherNames(teachers) {
  return teachers.map(named).join(", ");
}

/** Which teacher judged, for the rollout's head. @param {Teacher[]} teachers */
export function teacherTag(teachers) {
  if (teachers.length < 2) return null;
  const title = `${teacherNames(teachers)}. Which of them judged this rollout is not stored.`;
  return h("span", { class: "tag", text: `one of ${integer(teachers.length)} teachers`, title });
}

export class TeacherPrompt {
  constructor() {
    this.line = h("summary", {});
    this.full = h("div", { class: "rt-answers-full" });
    this.element = h("details", { class: "rt-answers rt-teacher", hidden: true }, this.line, this.full);
  }

  /** @param {Teacher[]} teachers */
  show(teachers) {
    const other = teachers.filter(({ prompt, system }) => prompt || system);
    this.element.hidden = !other.length;
    if (!other.length) return;
    const who = other.length === teachers.length ? "The teacher read" : `${teacherNames(other)} reads`;
    fill(
      this.line,
      h("span", { text: `${who} another prompt than the student` }),
      h("span", { class: "muted", text: "templates; the rendered text is not stored" }),
    );
    fill(
      this.full,
      other.flatMap((teacher) => [
        teacher.system && template(`${named(teacher)}, system message`, teacher.system),
        teacher.prompt && template(`${named(teacher)}, in place of the prompt`, teacher.prompt),
      ]),
    );
  }
}

/** @param {string} name @param {string} text */
function template(name, text) {
  const lines = text.split(/\r?\n/).map((line) => plain(line, line.length));
  return h("div", {}, h("h2", { text: name }), h("pre", { class: "wrap", text: lines.join("\n") }));
}
