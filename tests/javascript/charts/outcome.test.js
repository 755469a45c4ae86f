import assert from "node:assert/strict";
import { test } from "node:test";
import {
  beliefOf,
  headlineOf,
  learntOf,
  outcomeOf,
  spentOf,
  wayOf,
} from "../../../app/static/tour/outcome.js";

/** @param {number} step @param {number} value @param {number | null} [error] */
const score = (step, value, error = 0.03) => ({
  step,
  suite: "heldout",
  metric: "pass@1",
  value,
  n: 200,
  standard_error: error,
});
/** @param {string} status */
const run = (status) => /** @type {Run} */ (/** @type {unknown} */ ({ status }));

test("a change counts beyond two standard errors of the difference", () => {
  assert.equal(outcomeOf([score(0, 0.35), score(4, 0.5), score(8, 0.9)]), "rose");
  assert.equal(outcomeOf([score(0, 0.5), score(8, 0.58)]), "unchanged"); // 0.08 < 2 · 0.042
  assert.equal(outcomeOf([score(0, 0.5), score(8, 0.59)]), "rose");
  assert.equal(outcomeOf([score(0, 0.9), score(8, 0.35)]), "fell");
  assert.equal(outcomeOf([score(0, 0, 0), score(8, 0, 0)]), "unchanged");
  assert.equal(outcomeOf([score(0, 0.5, null), score(8, 0.59, null)]), "unchanged"); // binomial: 0.035 each
  assert.equal(outcomeOf([score(0, 0.5)]), "first");
  assert.equal(outcomeOf([]), "none");
});

test("no success is told where the score shows none", () => {
  const flat = [score(0, 0, 0), score(8, 0, 0)];
  assert.equal(headlineOf(flat, run("finished")), "The score has not changed");
  assert.equal(headlineOf(flat, run("running")), "The score has not changed so far");
  assert.match(learntOf(flat), /may be chance/);
  assert.match(beliefOf(flat), /within what chance explains/);
  assert.equal(headlineOf([score(0, 0.9), score(8, 0.1)], run("finished")), "The score has fallen");
  assert.equal(headlineOf([], run("finished")), "This run has no score");
  assert.equal(headlineOf([score(0, 0.9)], run("running")), "Training is under way");
  assert.equal(headlineOf([score(0, 0.3), score(8, 0.9)], run("finished")), "Training closes the gap");
});

test("what a run took is told by its state", () => {
  assert.equal(spentOf(run("finished")), "The whole run took ");
  assert.equal(spentOf(run("running")), "So far the run has taken ");
  assert.equal(spentOf(run("failed")), "Until it failed, the run took ");
  assert.deepEqual([wayOf(2, 1), wayOf(1, 2), wayOf(1, 1)], ["fell from", "rose from", "stayed at"]);
});
