import assert from "node:assert/strict";
import { test } from "node:test";
import { cellsOfTexts } from "../../app/static/rollout/text/glyphs.js";
import { THINKING, turnsOf } from "../../app/static/rollout/text/turns.js";

const turnsIn = (prompt, completion) => turnsOf(cellsOfTexts(prompt), cellsOfTexts(completion));

test("an opener names the role of the turn that it opens", () => {
  const { starts, breaks } = turnsIn(
    ["<|im_start|>", "user", "\n", "hi", "<|im_end|>", "<|im_start|>", "assistant", "\n"],
    ["yes"],
  );
  assert.deepEqual(
    [...starts],
    [
      [0, "user"],
      [5, "assistant"],
    ],
  );
  assert.deepEqual([...breaks], [1, 0, 0, 0, 0, 1, 0, 0, 0]);
});

test("thinking is a block from its tag to the closing one, over tokens that split the tags", () => {
  const { blocks, kinds } = turnsIn([], ["<th", "ink>", "hm", "</think", ">", "42"]);
  assert.deepEqual(
    blocks.map(({ first, last, label }) => [first, last, label]),
    [[0, 4, "thinking"]],
  );
  assert.deepEqual([...kinds], [THINKING, THINKING, THINKING, THINKING, THINKING, 0]);
});

test("a block that is not closed ends with the turn", () => {
  const { blocks } = turnsIn([], ["<think>", "a", "<|im_end|>", "b"]);
  assert.deepEqual([blocks[0].first, blocks[0].last], [0, 1]);
});

test("tool calls and their replies are told apart", () => {
  const { blocks } = turnsIn(
    ["<tool_response>", "4", "</tool_response>"],
    ["<tool_call>", "{}", "</tool_call>"],
  );
  assert.deepEqual(
    blocks.map((block) => [block.first, block.label]),
    [
      [0, "reply"],
      [3, "tool call"],
    ],
  );
});

test("text without marks has neither turns nor blocks", () => {
  const { starts, blocks } = turnsIn(["2 < 3"], [" and", " [4]"]);
  assert.deepEqual([starts.size, blocks.length], [0, 0]);
});
