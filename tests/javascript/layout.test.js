import assert from "node:assert/strict";
import { test } from "node:test";
import { cellsOfTexts } from "../../app/static/rollout/text/glyphs.js";
import { layOut } from "../../app/static/rollout/text/layout.js";

/** The text of each line. */
function linesOf(prompt, completion, columns, breaks = []) {
  const cells = [...cellsOfTexts(prompt), ...cellsOfTexts(completion)];
  const marks = new Uint8Array(cells.length);
  for (const token of breaks) marks[token] = 1;
  const layout = layOut(cells.slice(0, prompt.length), cells.slice(prompt.length), columns, marks);
  const lines = [];
  for (let line = 0; line < layout.lines; line++) {
    let text = "";
    for (let p = layout.lineStart[line]; p < layout.lineStart[line + 1]; p++)
      text += layout.text.get(p) ?? cells[layout.token[p]].lines[0];
    lines.push(text);
  }
  return { ...layout, lines, count: layout.lines };
}

test("prompt and completion start on lines of their own", () => {
  const { lines, promptLines } = linesOf(["a", "b"], ["c", "d"], 10);
  assert.deepEqual(lines, ["ab", "cd"]);
  assert.equal(promptLines, 1);
});

test("a line breaks before a blank in its second half, else where it is full", () => {
  assert.deepEqual(linesOf([], ["one", " two", " three"], 10).lines, ["one two", " three"]);
  assert.deepEqual(linesOf([], ["a", " bcdefgh", "ij", "k"], 10).lines, ["a bcdefgh", "ijk"]);
});

test("a newline and a marked token start a line", () => {
  assert.deepEqual(linesOf([], ["a\n", "b"], 10).lines, ["a⏎", "b"]);
  assert.deepEqual(linesOf([], ["a", "b", "c"], 10, [1]).lines, ["a", "bc"]);
});

test("a token longer than a line is cut into pieces, and its first line is known", () => {
  const { lines, lineOf } = linesOf([], ["x", "y".repeat(25)], 10);
  assert.equal(lines.join(""), `x${"y".repeat(25)}`);
  assert.equal(lineOf[1], 0);
});

test("nothing is lost, and no line is longer than the columns", () => {
  const words = Array.from({ length: 200 }, (_, i) => `${i % 3 ? " " : ""}${"w".repeat((i * 7) % 13)}`);
  for (const columns of [8, 24, 80]) {
    const { lines } = linesOf(["p"], words, columns);
    const drawn = cellsOfTexts(words).map((cell) => cell.lines.join(""));
    assert.equal(lines.join(""), `p${drawn.join("")}`);
    assert.ok(
      lines.every((line) => line.length <= columns),
      `${columns} columns`,
    );
  }
});

test("an empty completion has the prompt's lines only", () => {
  const { count, promptLines } = linesOf(["a"], [], 10);
  assert.deepEqual([count, promptLines], [1, 1]);
});
