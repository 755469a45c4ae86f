import assert from "node:assert/strict";
import { test } from "node:test";
import { figureBetween, minutes, ratio, settings } from "../../app/static/experiments/figures.js";

test("a ratio has as many digits as its size needs, its interval the same", () => {
  assert.equal(ratio({ value: 8.13, low: 6.37, high: 9.97 }), "8.1× (6.4–10.0)");
  assert.equal(ratio({ value: 0.1234, low: null, high: null }), "0.12×");
  assert.equal(ratio({ value: 140.2, low: 99.5, high: 200 }), "140× (100–200)");
  assert.equal(ratio({ value: null }), "–");
});

test("an interval that reaches below 0 is spelled out", () => {
  assert.equal(ratio({ value: 1.5, low: -0.5, high: 3.5 }), "1.5× (−0.5 to 3.5)");
});

test("fractions are percentages, other metrics numbers", () => {
  assert.equal(figureBetween({ value: 0.831, low: 0.82, high: 0.849 }, "score"), "83.1% (82.0–84.9)");
  assert.equal(figureBetween({ value: 0.412 }, "reverse_kl"), "0.412");
});

test("settings in words, durations in the largest sensible unit", () => {
  assert.equal(settings({ "optimizer.learning_rate": 0.001 }), "learning rate 0.001");
  assert.equal(settings(null), "default settings");
  assert.deepEqual([0.2, 45, 95, 600, null].map(minutes), [
    "under 1 min",
    "about 45 min",
    "about 1.6 h",
    "about 10 h",
    "–",
  ]);
});
