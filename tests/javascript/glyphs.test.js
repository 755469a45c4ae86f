import assert from "node:assert/strict";
import { test } from "node:test";
import {
  bounded,
  cellsOf,
  cellsOfTexts,
  glyphs,
  visible,
  widthOf,
} from "../../app/static/rollout/text/glyphs.js";

test("what cannot be seen, or would change direction, is drawn", () => {
  assert.equal(glyphs("a\tb\r\n"), "a⇥ b␍⏎");
  assert.equal(glyphs("\u202ex\u200b"), "⟨202E⟩x⟨200B⟩");
  assert.equal(glyphs("\u0301"), "◌\u0301"); // a combining accent has something to stand on
});

test("blanks by themselves are dots, in running text they stay", () => {
  assert.deepEqual([visible("  "), visible(" a"), visible("")], ["··", " a", "∅"]);
});

test("tokens that differ in their blanks only look different", () => {
  assert.deepEqual([bounded(" her"), bounded("a b  "), bounded("  ")], ["·her", "a b··", "··"]);
  assert.deepEqual([bounded(" 6"), bounded("6"), bounded("")], ["·6", "6", "∅"]);
});

test("wide characters take two cells, accents none", () => {
  assert.deepEqual([widthOf("abc"), widthOf("漢字"), widthOf("e\u0301")], [3, 4, 1]);
});

test("equal ids share a cell; a special token says so", () => {
  const [a, b, end] = cellsOf([1, 1, 2], { 1: { t: "x" }, 2: { t: "<end>", s: 1 } });
  assert.equal(a, b);
  assert.deepEqual([end.raw, end.kind], ["<end>", "special"]);
  assert.deepEqual(cellsOf([7], {})[0].raw, "⟨7⟩"); // an id without a text
});

test("a character split over tokens is drawn with the first, whole", () => {
  const texts = { 1: { b: "e6" }, 2: { b: "bca2" }, 3: { b: "ff" } }; // 漢 is e6 bc a2
  const [first, rest, broken] = cellsOf([1, 2, 3], texts);
  assert.deepEqual([first.raw, first.whole, first.number], ["漢", "漢", 1]);
  assert.deepEqual([rest.kind, rest.whole, rest.number], ["part", "漢", 2]);
  assert.equal(broken.raw, "\\xff");
});

test("the bytes of any text, split anywhere, give the text back", () => {
  const text = "aé漢😀z";
  const bytes = [...new TextEncoder().encode(text)].map((byte) => byte.toString(16).padStart(2, "0"));
  for (let size = 1; size <= bytes.length; size++) {
    const pieces = [];
    for (let i = 0; i < bytes.length; i += size) pieces.push(bytes.slice(i, i + size).join(""));
    const texts = Object.fromEntries(pieces.map((piece, id) => [id, { b: piece }]));
    const cells = cellsOf([...pieces.keys()], texts);
    const drawn = cells.map((cell) => (cell.kind === "part" ? "" : cell.raw)).join("");
    assert.equal(drawn, text, `${size} bytes per token`);
  }
});

test("a newline ends a line of its token", () => {
  const [cell] = cellsOfTexts(["a\nb"]);
  assert.deepEqual([cell.lines, cell.newline], [["a⏎", "b"], false]);
  assert.equal(cellsOfTexts(["a\n"])[0].newline, true);
});
