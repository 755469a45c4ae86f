// How a token is drawn: whitespace, control and special tokens as glyphs, split characters whole.
import { code } from "../../lib/format.js";

const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f000}-\u{1faff}\u{20000}-\u{3fffd}]/u;
const ZERO = /[\p{Mn}\p{Me}\u200d]/u;
const HIDDEN =
  /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Cs}\u2028\u2029\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\u115f\u1160\u3164\uffa0]/gu;
const JOINED = /(\p{Extended_Pictographic}\ufe0f?)\u200d(?=\p{Extended_Pictographic})/gu;
const MIXED = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u; // written from right to left
const PLAIN = /^[\x21-\x7e\xa1-\xac\xae-\xff]+$/;
const PART = "‿"; // stands for a token that continues the character before it

/** A drawn token: its lines (a newline ends one), their widths, and where a line may break. */
class Cell {
  /** @param {string} raw @param {string} kind */
  constructor(raw, kind) {
    this.raw = raw;
    this.kind = kind; // "", "special", "space", "part" or "odd"; " bidi" with letters from right to left
    this.lines = linesOf(raw, kind);
    this.widths = this.lines.map(widthOf);
    if (MIXED.test(raw)) this.kind += " bidi";
    this.newline = raw.endsWith("\n");
    this.lead = kind === "special" || /^\s/.test(raw) || WIDE.test(raw.slice(0, 2));
    this.trail = kind === "special" || /\s$/.test(raw);
    // Of a byte token: its bytes in hexadecimal, the character it is part of and which part it is.
    this.bytes = "";
    this.whole = "";
    this.number = 0;
  }
}

/** @param {string} raw @param {string} kind */
function linesOf(raw, kind) {
  if (kind === "part") return [raw];
  if (raw === "") return ["∅"];
  if (PLAIN.test(raw)) return [raw];
  const lines = raw.split(/(?<=\n)/);
  const blank = /^\s+$/.test(raw);
  return lines.map((line) => glyphs(blank ? line.replace(/ /g, "·") : line));
}

/**
 * Text with every character that would be unseen, or would change direction, made visible.
 * @param {string} text
 */
export function glyphs(text) {
  const joined = text.replace(JOINED, "$1\ue0ff");
  const shown = joined
    .replace(/\n/g, "⏎")
    .replace(/\t/g, "⇥ ")
    .replace(/\r/g, "␍")
    .replace(HIDDEN, (c) => (c === "\ue0ff" ? "\u200d" : control(c)));
  return /^[\p{Mn}\p{Me}]/u.test(shown) ? `◌${shown}` : shown;
}

/** A token's text by itself, where it stands: only blanks as dots, nothing as ∅. @param {string} text */
export function visible(text) {
  return glyphs(text.trim() === "" ? text.replace(/ /g, "·") : text) || "∅";
}

/** A token outside its text, its outer blanks as dots: “her” and “ her” are two. @param {string} text */
export function bounded(text) {
  return visible(text).replace(/^ +| +$/g, (blanks) => "·".repeat(blanks.length));
}

/** @param {string} character */
function control(character) {
  const point = character.codePointAt(0) ?? 0;
  if (point < 32) return String.fromCodePoint(0x2400 + point);
  return point === 127 ? "␡" : code(character);
}

/** @param {string} text */
export function widthOf(text) {
  if (PLAIN.test(text)) return text.length;
  let width = 0;
  for (const character of text) width += ZERO.test(character) ? 0 : WIDE.test(character) ? 2 : 1;
  return width;
}

/**
 * The cells of a sequence of ids; equal ids share one, characters split over tokens are joined.
 * @param {ArrayLike<number>} ids @param {TokenTexts} texts
 */
export function cellsOf(ids, texts) {
  const byId = new Map();
  const cells = new Array(ids.length);
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i];
    let cell = byId.get(id);
    if (cell === undefined) {
      cell = texts[id]?.b ? null : plainCell(id, texts[id]);
      byId.set(id, cell);
    }
    if (cell !== null) cells[i] = cell;
    else i = joinBytes(ids, texts, i, cells) - 1;
  }
  return cells;
}

/** Cells of tokens whose texts came with the record. @param {string[]} texts */
export function cellsOfTexts(texts) {
  const byText = new Map();
  return texts.map((text) => {
    if (!byText.has(text)) byText.set(text, plainCell(0, { t: text }));
    return byText.get(text);
  });
}

/** @param {number} id @param {TokenData | undefined} entry */
function plainCell(id, entry) {
  if (typeof entry?.t !== "string") return new Cell(`⟨${id}⟩`, "odd");
  const kind = entry.s ? "special" : /^\s+$/.test(entry.t) ? "space" : "";
  return new Cell(entry.t, kind);
}

/** @param {ArrayLike<number>} ids @param {TokenTexts} texts @param {number} start */
function endOfBytes(ids, texts, start) {
  let end = start;
  while (end < ids.length && texts[ids[end]]?.b) end++;
  return end;
}

/**
 * Fills the cells of a row of byte tokens from `start`; returns where it ends.
 * @param {ArrayLike<number>} ids @param {TokenTexts} texts @param {number} start @param {DrawnCell[]} cells
 */
function joinBytes(ids, texts, start, cells) {
  const end = endOfBytes(ids, texts, start);
  const bytes = [];
  const owner = [];
  for (let i = start; i < end; i++) {
    for (const pair of texts[ids[i]].b?.match(/../g) ?? []) {
      bytes.push(parseInt(pair, 16));
      owner.push(i);
    }
  }
  const shown = new Map();
  const part = new Map();
  for (let at = 0; at < bytes.length; ) at = takeCharacter(bytes, owner, at, shown, part);
  for (let i = start; i < end; i++) {
    const text = shown.get(i);
    const rest = part.get(i);
    const cell = text === undefined ? new Cell(PART, "part") : new Cell(text, "");
    cell.bytes = texts[ids[i]].b ?? "";
    cell.whole = rest?.whole ?? "";
    cell.number = rest?.number ?? 0;
    cells[i] = cell;
  }
  return end;
}

/**
 * Takes one UTF-8 character from `at`; it is drawn with its first token, the others are its parts.
 * @param {number[]} bytes
 * @param {number[]} owner
 * @param {number} at
 * @param {Map<number, string>} shown
 * @param {Map<number, {number: number, whole: string}>} part
 */
function takeCharacter(bytes, owner, at, shown, part) {
  const size = sizeOf(bytes[at]);
  const first = owner[at];
  const raw = bytes.slice(at, at + size);
  const text = size && raw.length === size ? decodeBytes(raw) : null;
  if (text === null) {
    shown.set(first, `${shown.get(first) ?? ""}\\x${bytes[at].toString(16).padStart(2, "0")}`);
    return at + 1;
  }
  shown.set(first, (shown.get(first) ?? "") + text);
  const tokens = [...new Set(owner.slice(at, at + size))];
  if (tokens.length > 1) for (const [k, t] of tokens.entries()) part.set(t, { number: k + 1, whole: text });
  return at + size;
}

/** @param {number} byte */
function sizeOf(byte) {
  if (byte < 0x80) return 1;
  if (byte >= 0xc2 && byte < 0xe0) return 2;
  if (byte >= 0xe0 && byte < 0xf0) return 3;
  return byte >= 0xf0 && byte < 0xf5 ? 4 : 0;
}

/** @param {number[]} raw */
function decodeBytes(raw) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(raw));
  } catch {
    return null;
  }
}
