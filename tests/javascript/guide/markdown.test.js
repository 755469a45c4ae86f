import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import test from "node:test";
import { anchorOf, blocksOf, wordsOf } from "../../../app/static/guide/markdown.js";

const FOLDER = new URL("../../../app/static/guide/", import.meta.url);

test("blocks of each kind", () => {
  const text =
    "# A *b*\n\nOne\nline.\n- x\n- y\n1. z\n\n| a | b |\n|---|---|\n| `c` | d \\| e |\n\n```\n| f\n```";
  const kinds = blocksOf(text).map((b) => b.kind);
  assert.deepEqual(kinds, ["heading", "paragraph", "list", "list", "table", "code"]);
  const [heading, paragraph, list, steps, table, code] = blocksOf(text);
  assert.equal(wordsOf(heading.spans), "A b");
  assert.equal(wordsOf(paragraph.spans), "One line.");
  assert.deepEqual([list.ordered, list.items.length, steps.ordered], [false, 2, true]);
  assert.deepEqual(table.rows[0].map(wordsOf), ["c", "d | e"]);
  assert.equal(code.text, "| f");
});

test("spans of each kind, one within another", () => {
  const [{ spans }] = blocksOf("a `b*` **c `d`** *e* [f](g.md#h) 2 * 3 * 4");
  assert.deepEqual(
    spans.map((s) => s.kind),
    ["text", "code", "text", "strong", "text", "emphasis", "text", "link", "text"],
  );
  assert.equal(spans[3].spans[1].kind, "code");
  assert.equal(spans[7].target, "g.md#h");
  assert.equal(wordsOf(spans), "a b* c d e f 2 * 3 * 4");
});

test("markup is text", () => {
  const text = "<script>alert(1)</script> <img src=x onerror=1>";
  assert.deepEqual(blocksOf(text), [{ kind: "paragraph", spans: [{ kind: "text", text }] }]);
});

test("every document is read to its end, and its links to its own sections lead somewhere", () => {
  const files = readdirSync(FOLDER).filter((file) => file.endsWith(".md"));
  assert.ok(files.length >= 4);
  for (const file of files) {
    const text = readFileSync(new URL(file, FOLDER), "utf-8");
    const blocks = blocksOf(text);
    const anchors = blocks.filter((b) => b.kind === "heading").map((b) => anchorOf(b.spans));
    assert.equal(new Set(anchors).size, anchors.length, file);
    for (const [, target] of text.matchAll(/\]\(#([^)]+)\)/g)) assert.ok(anchors.includes(target), target);
    const left = JSON.stringify(blocks);
    assert.ok(!/\*\*|\]\(|^#/.test(left), `${file}: ${/.{40}(\*\*|\]\().{40}/.exec(left)?.[0]}`);
    for (const block of blocks)
      if (block.kind === "table")
        for (const row of block.rows) assert.equal(row.length, block.head.length, file);
  }
});
