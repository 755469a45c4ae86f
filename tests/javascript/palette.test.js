import assert from "node:assert/strict";
import { test } from "node:test";
import {
  classOf,
  contrast,
  inkOn,
  LEVELS,
  levelOf,
  PALETTES,
  tintsOf,
} from "../../app/static/lib/palette.js";

test("a level is (size / top) ^ gamma of the levels, and never beyond them", () => {
  assert.equal(levelOf(1, 4, 0.5), LEVELS / 2);
  assert.equal(levelOf(0, 4, 0.5), 0);
  assert.equal(levelOf(9, 4, 0.5), LEVELS);
  assert.equal(levelOf(Number.NaN, 4, 0.5), 0);
});

test("a logarithmic scale halves between 0 and top at √(1 + top) − 1", () => {
  assert.equal(levelOf(2, 8, 1, true), LEVELS / 2); // log(3) / log(9)
});

test("levels grow with the size", () => {
  const levels = Array.from({ length: 50 }, (_, i) => levelOf(i / 10, 3, 0.6));
  assert.deepEqual(
    levels,
    levels.toSorted((a, b) => a - b),
  );
});

test("a tint's class says level and side; level 0 has none", () => {
  assert.deepEqual([classOf(0, 1), classOf(5, 0), classOf(5, -1), classOf(5, 1)], ["", "q5", "c5", "w5"]);
});

test("contrast is 21 between black and white, 1 between equals, the same both ways", () => {
  assert.ok(Math.abs(contrast("#000000", "#ffffff") - 21) < 1e-9);
  assert.equal(contrast("#336699", "#336699"), 1);
  assert.equal(contrast("#336699", "#ffffff"), contrast("#ffffff", "#336699"));
});

test("text can be read on every tint of every palette, light and dark", () => {
  for (const dark of [false, true]) {
    const ink = dark ? "#e7e8ea" : "#1b1c1f";
    for (const [name] of PALETTES) {
      const { up, cold, warm } = tintsOf(name, dark);
      for (const colours of [up, cold, warm]) {
        assert.equal(colours.length, LEVELS + 1);
        for (const colour of colours) assert.ok(contrast(colour, inkOn(colour, ink)) >= 4.5, colour);
      }
    }
  }
});
