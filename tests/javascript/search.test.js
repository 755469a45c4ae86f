import assert from "node:assert/strict";
import { test } from "node:test";
import { cellsOfTexts } from "../../app/static/rollout/text/glyphs.js";
import { findAll, startsOf, tokenAt, tokensOf } from "../../app/static/rollout/text/search.js";

const rollout = { cells: cellsOfTexts(["The", " cat", " sat", ", the", " end"]) };

test("a match may lie in several tokens; case does not matter", () => {
  assert.deepEqual(findAll(rollout, "THE"), [
    [0, 0],
    [3, 3],
  ]);
  assert.deepEqual(findAll(rollout, "at sa"), [[1, 2]]);
  assert.deepEqual(findAll(rollout, ""), []);
  assert.deepEqual(findAll(rollout, "dog"), []);
});

test("matches do not overlap", () => {
  assert.equal(findAll({ cells: cellsOfTexts(["aaaa"]) }, "aa").length, 2);
});

test("every character belongs to the token that covers it", () => {
  const starts = startsOf(rollout.cells);
  assert.deepEqual([...starts], [0, 3, 7, 11, 16, 20]);
  for (let character = 0; character < 20; character++) {
    const token = tokenAt(starts, character);
    assert.ok(starts[token] <= character && character < starts[token + 1], `${character}`);
  }
});

test("the tokens of all matches", () => {
  assert.deepEqual(
    [
      ...tokensOf([
        [1, 2],
        [4, 4],
      ]),
    ],
    [1, 2, 4],
  );
});
