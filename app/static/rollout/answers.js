// What the grader took out of the completion, and the correct answer: one line, in full on demand.
import { fill, h } from "../lib/dom.js";
import { plain } from "../lib/format.js";

const CUT = 300; // characters of the line, which the page clips where it has no room

/** Whether there is anything to say about a rollout's grading. @param {RolloutItem} item */
export function isGraded({ answer, extracted, reward, grader }) {
  const some = [answer, extracted, reward].some((value) => value !== null && value !== undefined);
  return some || Boolean(grader && grader !== "none");
}

/** The extracted text in a line; what was not extracted, and why. @param {RolloutItem} item */
export function extractedText({ extracted, extraction_note: note }) {
  if (extracted === null || extracted === undefined) return note ?? "";
  return plain(extracted, CUT) || "∅";
}

export class Answers {
  constructor() {
    this.line = h("summary", { title: "Show both in full" });
    this.full = h("div", { class: "rt-answers-full" });
    this.element = h("details", { class: "rt-answers", hidden: true }, this.line, this.full);
  }

  /** @param {RolloutMeta} meta @param {Child} verdict */
  show(meta, verdict) {
    this.element.hidden = !isGraded(meta);
    if (this.element.hidden) return;
    const nothing = meta.extracted === null || meta.extracted === undefined;
    const note = meta.extraction_note || "nothing extracted";
    fill(
      this.line,
      verdict,
      entry("extracted", nothing ? note : extractedText(meta), nothing),
      entry("correct answer", answerText(meta), meta.answer === null),
    );
    fill(
      this.full,
      block(
        `Extracted by the grader (${meta.grader ?? "none"})`,
        nothing ? note : whole(meta.extracted ?? ""),
      ),
      block("Correct answer", meta.answer === null ? "none stored" : whole(meta.answer)),
    );
  }
}

/** @param {RolloutMeta} meta */
function answerText({ answer }) {
  return answer === null ? "none stored" : plain(answer, CUT) || "∅";
}

/** @param {string} name @param {string} text @param {boolean} missing */
function entry(name, text, missing) {
  return h(
    "span",
    { class: "rt-answer" },
    h("span", { class: "muted", text: name }),
    h("span", { class: missing ? "rt-answer-text muted" : "rt-answer-text mono", text }),
  );
}

/** @param {string} name @param {string} text */
function block(name, text) {
  return h("div", {}, h("h2", { text: name }), h("pre", { class: "wrap", text }));
}

/** All of a text, its lines kept and invisible characters shown. @param {string} text */
function whole(text) {
  const lines = text.split(/\r?\n/).map((line) => plain(line, line.length));
  return lines.join("\n") || "∅";
}
