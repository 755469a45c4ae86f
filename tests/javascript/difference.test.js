import assert from "node:assert/strict";
import { test } from "node:test";
import { differenceOf, mirrored, sharedStart } from "../../app/static/rollout/text/difference.js";
import { metricOf, valuesOf } from "../../app/static/rollout/text/metrics.js";

const rollout = (id, kl) => ({
  n: kl.length,
  meta: { id, columns: [] },
  columns: { reverse_kl: Float32Array.from(kl) },
});
const one = rollout("roll-one", [1, 2, 3, 4]);
const other = rollout("roll-two", [0.5, 3, 9]);
const metric = metricOf("reverse_kl");
const compared = { id: "roll-two", other, common: 2, problem: "" };

test("how far two completions agree", () => {
  assert.equal(sharedStart([1, 2, 3], [1, 2, 4]), 2);
  assert.equal(sharedStart([1, 2], [1, 2, 4]), 2);
  assert.equal(sharedStart([], [1]), 0);
});

test("both texts show left minus right over what they share, then each its own", () => {
  assert.deepEqual([...valuesOf(differenceOf(metric, one, compared), one)], [0.5, -1, 3, 4]);
  assert.deepEqual([...valuesOf(mirrored(metric, one, compared), other)], [0.5, -1, 9]);
  assert.deepEqual([...one.columns.reverse_kl], [1, 2, 3, 4]); // the record is as it was
});

test("a difference is signed, and says of which metric and where it ends", () => {
  const difference = differenceOf(metric, one, compared);
  assert.deepEqual([difference.signed, difference.warm, difference.base], [true, 1, metric]);
  assert.match(difference.means, /minus the other.*after the shared tokens/);
  const whole = differenceOf(metric, one, { ...compared, common: 4 });
  assert.doesNotMatch(whole.means, /after the shared tokens/);
});
