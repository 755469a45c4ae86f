// The figures of one token as a table: by model, then those that belong to both.
import { fill, h } from "../../lib/dom.js";
import { fixed, integer, nats, probability } from "../../lib/format.js";
import { isNumber } from "./alternatives.js";

/** Fills `element` with the figures of token `index`; what the record has no column for is left out. */
export function drawFigures(element, columns, index) {
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
 */
function byModel(at) {
  const [p, q] = [at("student_logprobs"), at("teacher_logprobs")];
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

function text(format, value) {
  return isNumber(value) ? format(value) : undefined;
}

function pairRow(name, student, teacher, unit) {
  return h("tr", {}, h("th", { scope: "row", text: name }), cell(student), cell(teacher), unitCell(unit));
}

function singleRow(name, value, unit, means) {
  return h(
    "tr",
    { title: means },
    h("th", { scope: "row", text: name }),
    cell(value, { colspan: "2" }),
    unitCell(unit),
  );
}

function cell(value, more) {
  return h("td", { class: "num r", ...more }, value ?? "–");
}

function unitCell(unit) {
  return h("td", { class: "unit", text: unit });
}
