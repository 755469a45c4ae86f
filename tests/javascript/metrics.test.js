import assert from "node:assert/strict";
import { test } from "node:test";
import {
  extremeOf,
  METRICS,
  metricOf,
  reasonAgainst,
  toFetch,
  unitOf,
  valuesOf,
  worstFirst,
} from "../../app/static/rollout/text/metrics.js";

const rollout = {
  n: 4,
  meta: { columns: ["teacher_rank", "advantages"], absent: { reverse_kl: "Not stored." } },
  columns: {
    student_logprobs: Float32Array.of(-1, -2, -0.5, -1),
    teacher_logprobs: Float32Array.of(-3, -1, -0.5, Number.NaN),
    teacher_rank: Uint32Array.of(0, 3, 0, 1),
  },
};
const listOf = (key) => [...valuesOf(metricOf(key), rollout)];

test("the log-ratio is student − teacher, surprise the negative log-probability", () => {
  assert.deepEqual(listOf("log_ratio"), [2, -1, 0, Number.NaN]);
  assert.deepEqual(listOf("student_surprise"), [1, 2, 0.5, 1]);
});

test("top-1 agreement is tinted where the ranks are not 0", () => {
  assert.deepEqual(listOf("top1"), [0, 1, 0, 1]);
});

test("worst first is by size in both directions; tokens without a value come last, ties in order", () => {
  assert.deepEqual([...worstFirst(metricOf("log_ratio"), rollout)], [0, 1, 2, 3]);
  assert.deepEqual([...worstFirst(metricOf("top1"), rollout)], [1, 3, 0, 2]);
});

test("the extreme is the largest finite size", () => {
  assert.equal(extremeOf([1, -3, Number.NaN, Number.POSITIVE_INFINITY]), 3);
});

test("a metric is refused for the column that is missing, with the server's reason", () => {
  assert.equal(reasonAgainst(metricOf("reverse_kl"), rollout), "Not stored.");
  assert.match(reasonAgainst(metricOf("student_entropy"), rollout), /no student entrop/);
  assert.equal(reasonAgainst(metricOf("advantage"), rollout), "");
  assert.deepEqual(toFetch(metricOf("advantage"), rollout), ["advantages"]); // stored, not here yet
  assert.deepEqual(toFetch(metricOf("log_ratio"), rollout), []);
});

test("keys are unique, and an unknown one means the first metric", () => {
  assert.equal(new Set(METRICS.map((metric) => metric.key)).size, METRICS.length);
  assert.equal(metricOf("nothing"), METRICS[0]);
  assert.deepEqual([unitOf(metricOf("teacher_rank")), unitOf(metricOf("reverse_kl"))], ["", "nats"]);
});
