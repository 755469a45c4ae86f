import assert from "node:assert/strict";
import { test } from "node:test";
import { tableOf } from "../../app/static/rollout/panels/alternatives.js";

/** @param {number} id @param {number | null} p @param {number | null} q */
function entry(id, p, q) {
  const log = (/** @type {number | null} */ value) => (value === null ? null : Math.log(value));
  return { id, text: ` w${id}`, student_logprob: log(p), teacher_logprob: log(q) };
}

test("a written token outside the top-k has a row of its own, marked so", () => {
  const both = [entry(1, 0.6, 0.2), entry(2, 0.3, 0.7)];
  const { list, rest } = tableOf({ position: 0, student: both, teacher: both }, entry(9, 0.05, 0.01), 1);
  assert.deepEqual(
    list.map(({ id, sampled, outside }) => [id, sampled, outside]),
    [
      [2, false, false],
      [1, false, false],
      [9, true, true],
    ],
  );
  assert.ok(Math.abs((rest.p ?? 0) - 0.05) < 1e-9 && Math.abs((rest.q ?? 0) - 0.09) < 1e-9);
});

test("a written token that is listed has one row, and is not outside", () => {
  const both = [entry(1, 0.6, 0.2), entry(2, 0.3, 0.7)];
  const { list } = tableOf({ position: 0, student: both, teacher: null }, entry(1, 0.6, 0.2), 1);
  assert.deepEqual(
    list.map(({ id, sampled, outside }) => [id, sampled, outside]),
    [
      [2, false, false],
      [1, true, false],
    ],
  );
});
