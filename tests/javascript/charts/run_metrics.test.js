import assert from "node:assert/strict";
import { test } from "node:test";
import { metricOf } from "../../../app/static/lib/charts/run_metrics.js";

test("a metric has its label, unit and sentence from the one table", () => {
  const { label, unit, share, help } = metricOf("reverse_kl");
  assert.deepEqual([label, unit, share], ["Reverse KL", "nats per token", false]);
  assert.match(help, /^How far /);
});

test("figures of evaluations have their suite before the label, and the number of completions", () => {
  assert.equal(metricOf("eval/heldout-greedy/pass@1").label, "heldout-greedy pass@1");
  assert.equal(metricOf("eval/lm-eval/arc_easy/acc").label, "lm-eval arc easy acc");
  assert.equal(metricOf("eval/chat/pass@4").share, true);
  assert.equal(metricOf("heldout/pass@1").share, true); // as experiments name it
  assert.equal(metricOf("system/cpu").label, "Processor, machine");
  assert.equal(metricOf("teacher_pass@4").label, "Teacher pass@4");
});

test("what the table does not have is called by its own name", () => {
  assert.deepEqual(metricOf("actor/my_loss"), { label: "actor my loss", unit: "", help: "", share: false });
  assert.equal(metricOf("toString").label, "toString");
});
