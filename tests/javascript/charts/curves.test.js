import assert from "node:assert/strict";
import { test } from "node:test";
import { constantRange, smoothed } from "../../../app/static/lib/charts/curves.js";

test("smoothing is that of the comparison, by hand", () => {
  // storage/comparison/curves.py: s = w s + (1 - w) y, over 1 - w^t
  assert.deepEqual(smoothed([1, 2, 4], 0), [1, 2, 4]);
  assert.deepEqual(smoothed([1, null, 2, 4], 0.5), [1, null, 1.25 / 0.75, 2.625 / 0.875]);
  assert.deepEqual(
    smoothed([Number.NaN, 3], 0.9).map((v) => v && Number(v.toFixed(9))),
    [null, 3],
  );
});

test("a constant has a range around it, and other curves keep the library's", () => {
  assert.equal(constantRange([0.4, 0.5]), null);
  assert.equal(constantRange([]), null);
  assert.deepEqual(constantRange([0.5, 0.5], { fromZero: true }), [0, 0.75]);
  assert.deepEqual(constantRange([-0.5], { fromZero: true }), [-0.75, 0]);
  assert.deepEqual(
    constantRange([0.5, 0.5 + 1e-9])?.map((v) => v.toFixed(6)),
    ["0.250000", "0.750000"],
  );
  assert.deepEqual(constantRange([0, 0]), [-1, 1]);
  assert.deepEqual(constantRange([0], { fromZero: true }), [0, 1]);
  assert.deepEqual(constantRange([64, -3, 0], { log: true }), [1, 3]);
  assert.equal(constantRange([-3, 0], { log: true }), null);
});
