import assert from "node:assert/strict";
import { test } from "node:test";
import {
  askedOf,
  columnsOf,
  FIRST_SIGHT,
  idsOf,
  shortLabel,
  valueText,
} from "../../../app/static/runs/columns.js";

/** @param {Partial<RunColumn>} more @returns {RunColumn} */
const column = (more) => ({
  id: "x",
  kind: "metric",
  label: "X",
  unit: "",
  help: "",
  share: false,
  goal: "",
  ...more,
});

test("an address names each column once, and the server is not asked for the page's own", () => {
  assert.deepEqual(idsOf(" loss:best,,kl,loss:best"), ["loss:best", "kl"]);
  assert.deepEqual(idsOf(""), []);
  assert.equal(askedOf(["models", "loss", "disk", "kl"]), "loss,kl");
});

test("without a choice the columns are those of the first sight; unknown ones are left out", () => {
  assert.deepEqual(
    columnsOf([], [], []).map((one) => one.id),
    FIRST_SIGHT,
  );
  const run = /** @type {Run} */ ({ columns: { x: 0.5 } });
  const views = columnsOf(["kl", "x", "gone"], [column({ goal: "low" })], [run]);
  assert.deepEqual(
    views.map(({ id, number, high }) => [id, number, high ?? false]),
    [
      ["kl", true, false],
      ["x", true, false],
    ],
  );
});

test("values are written as what they are", () => {
  assert.equal(valueText(column({}), null), "–");
  assert.equal(valueText(column({ share: true }), 0.5), "50.0%");
  assert.equal(valueText(column({}), 0.123456), "0.1235");
  assert.equal(valueText(column({}), 1234), "1,234");
  assert.equal(valueText(column({ unit: "seconds" }), 90), "1 min 30 s");
  assert.equal(valueText(column({ unit: "bytes, peak of the step" }), 2_000_000), "2.00 MB");
  const setting = column({ id: "a.b.learning_rate", kind: "setting" });
  assert.equal(valueText(setting, 1.5e-7), "1.5e-7");
  assert.equal(valueText(setting, 0.00015), "0.00015");
  assert.equal(valueText(setting, true), "true");
  assert.equal(valueText(setting, ""), '""');
  assert.equal(valueText(setting, [1, 0.5]), "1, 0.5");
  assert.equal(valueText(setting, []), "[]");
  assert.equal(valueText(setting, { a: [1] }), '{"a":[1]}');
  assert.equal(valueText(setting, "a\u202eb\n"), "a⟨202E⟩b ⏎ ");
  assert.equal(shortLabel(setting), "b.learning_rate");
});
