// The figures of one token as a table: by model, then those that belong to both.
import { fill, h } from "../../lib/dom.js";
import { fixed, integer, nats, probability } from "../../lib/format.js";
import { isNumber } from "./alternatives.js";

/**
 * Fills `element` with the figures of token `index`; what the record has no column for is left out.
 * @param {HTMLElement} element @param {Readonly<Columns>} columns @param {number} index
 */
export function drawFigures(element, columns, index) {
  /** @param {string} name */
  const at = (name) => columns[name]?.[index];
  fill(
    element,
    h(
      "table",
      { class: "dt-pairs" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("td", {}),
          h("th", { class: "r", scope: "col", text: "student" }),
          h("th", { class: "r", scope: "col", text: "teacher" }),
          h("td", {}),
        ),
      ),
      h(
        "tbody",
        {},
        byModel(at).map((row) => pairRow(...row)),
      ),
      h(
        "tbody",
        {},
        ofBoth(at).map((row) => singleRow(...row)),
      ),
    ),
  );
}

/**
 * [name, student's, teacher's, unit]; undefined where there is no such column.
 * @returns {[string, string | undefined, string | undefined, string][]}
 * @param {FigureAt} at
 */
function byModel(at) {
  const [p, q] = [at("student_logprobs"), at("teacher_logprobs")];
  /** @param {number | undefined} logprob */
  const asProbability = (logprob) => (logprob === undefined ? undefined : probability(Math.exp(logprob)));
  /** @type {[string, string | undefined, string | undefined, string][]} */
  const rows = [
    ["probability", asProbability(p), asProbability(q), ""],
    ["log-probability", text(fixed, p), text(fixed, q), "nats"],
    ["entropy", text(nats, at("student_entropy")), text(nats, at("teacher_entropy")), "nats"],
  ];
  return rows.filter(([, student, teacher]) => student !== undefined || teacher !== undefined);
}

/**
 * [name, value, unit, what it means]; what has no value is left out.
 * @returns {[string, string | undefined, string, string][]}
 * @param {FigureAt} at
 */
function ofBoth(at) {
  const [p, q, mask] = [at("student_logprobs"), at("teacher_logprobs"), at("mask")];
  const ratio = p === undefined || q === undefined ? undefined : fixed(p - q);
  /** @type {[string, string | undefined, string, string][]} */
  const rows = [
    ["reverse KL", text(nats, at("reverse_kl")), "nats", "exact, over the whole vocabulary"],
    ["log-ratio", ratio, "nats", "log p(student) − log p(teacher)"],
    ["teacher rank", text(integer, at("teacher_rank")), "", "0: the teacher’s first choice"],
    ["advantage", text(fixed, at("advantages")), "", "as trained"],
    ["loss weight", mask === 1 ? undefined : text((v) => fixed(v, 2), mask), "", "0: masked out"],
  ];
  return rows.filter(([, value]) => value !== undefined);
}

/** @param {(value: number) => string} format @param {Value} value */
function text(format, value) {
  return isNumber(value) ? format(value) : undefined;
}

/** @param {string} name @param {Child} student @param {Child} teacher @param {string} unit */
function pairRow(name, student, teacher, unit) {
  return h("tr", {}, h("th", { scope: "row", text: name }), cell(student), cell(teacher), unitCell(unit));
}

/** @param {string} name @param {Child} value @param {string} unit @param {string} means */
function singleRow(name, value, unit, means) {
  return h(
    "tr",
    { title: means },
    h("th", { scope: "row", text: name }),
    cell(value, { colspan: "2" }),
    unitCell(unit),
  );
}

/** @param {Child} value @param {Props} [more] */
function cell(value, more) {
  return h("td", { class: "num r", ...more }, value ?? "–");
}

/** @param {string} unit */
function unitCell(unit) {
  return h("td", { class: "unit", text: unit });
}
