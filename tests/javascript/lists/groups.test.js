import assert from "node:assert/strict";
import { test } from "node:test";
import { grouped, kindsOf } from "../../../app/static/rollouts/groups.js";

test("equal items stand together where the first is, those without a key alone", () => {
  const [a, b, c, d, e] = ["a", "b", null, "a", null].map((key) => ({ key }));
  assert.deepEqual(
    grouped([a, b, c, d, e], ({ key }) => key),
    [[a, d], [b], [c], [e]],
  );
});

test("the kinds of a group are counted", () => {
  assert.equal(kindsOf([{ kind: "eval" }, { kind: "probe" }, { kind: "eval" }]), "eval ×2, probe");
});
