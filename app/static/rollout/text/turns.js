// Turns of a chat, tool calls and thinking, found in the tokens' texts.
import { glyphs } from "./glyphs.js";
import { startsOf, tokenAt } from "./search.js";

const TOOL = 1;
export const THINKING = 2;
const LONGEST_ROLE = 24;
// A token whose whole text is one of these opens a turn; the texts that follow name its role.
/** @type {Map<string, (rest: string) => string>} */
const OPENERS = new Map(
  /** @type {[string, (rest: string) => string][]} */ ([
    ["<|im_start|>", (rest) => rest.split(/[\n<]/, 1)[0]],
    ["<|start_header_id|>", (rest) => rest.split("<|end_header_id|>", 1)[0]],
    ["<|header_start|>", (rest) => rest.split("<|header_end|>", 1)[0]],
    ["<start_of_turn>", (rest) => rest.split(/[\n<]/, 1)[0]],
    ["<|start_of_role|>", (rest) => rest.split("<|end_of_role|>", 1)[0]],
    ["<|system|>", () => "system"],
    ["<|user|>", () => "user"],
    ["<|assistant|>", () => "assistant"],
    ["<|User|>", () => "user"],
    ["<|Assistant|>", () => "assistant"],
    ["<｜User｜>", () => "user"],
    ["<｜Assistant｜>", () => "assistant"],
    ["[INST]", () => "user"],
    ["[/INST]", () => "assistant"],
  ]),
);
// Blocks may be spelt by several tokens.
const OPENING =
  /<(think|thinking|reasoning|tool_call|tool_calls|tool_response|function_call|function=[^<>\n]{0,60})>|\[(?:TOOL_CALLS|THINK)\]|<\|python_tag\|>/g;
/** @type {[RegExp, string | null][]} */
const ENDS = [
  [/^<function=/, "</function>"],
  [/^\[TOOL_CALLS\]|^<\|python_tag\|>/, null],
  [/^\[THINK\]/, "[/THINK]"],
];

/**
 * → {starts: Map(token → role), blocks: [{first, last, kind, label}], kinds: Uint8Array}; tokens
 * are numbered as in the layout, the prompt's before the completion's.
 * @param {DrawnCell[]} promptCells @param {DrawnCell[]} completionCells
 */
export function turnsOf(promptCells, completionCells) {
  const cells = [promptCells, completionCells];
  const count = promptCells.length + completionCells.length;
  const turns = {
    starts: new Map(),
    /** @type {{first: number, last: number, kind: number, label: string}[]} */
    blocks: [],
    kinds: new Uint8Array(count),
    breaks: new Uint8Array(count),
  };
  let offset = 0;
  for (const part of cells) {
    findTurns(part, offset, turns);
    findBlocks(part, offset, turns);
    offset += part.length;
  }
  for (const token of turns.starts.keys()) turns.breaks[token] = 1;
  return turns;
}

/** @param {DrawnCell[]} cells @param {number} offset @param {Turns} turns */
function findTurns(cells, offset, turns) {
  cells.forEach((cell, i) => {
    const role = OPENERS.get(cell.raw);
    if (!role) return;
    const rest = cells
      .slice(i + 1, i + 10)
      .map((c) => c.raw)
      .join("");
    turns.starts.set(offset + i, glyphs(role(rest).trim().slice(0, LONGEST_ROLE)) || "turn");
  });
}

/** @param {DrawnCell[]} cells @param {number} offset @param {Turns} turns */
function findBlocks(cells, offset, turns) {
  const text = cells.map((cell) => (cell.kind === "part" ? "" : cell.raw)).join("");
  if (!/[<[]/.test(text)) return;
  /** @type {Int32Array | null} */
  let starts = null;
  OPENING.lastIndex = 0;
  for (let match = OPENING.exec(text); match; match = OPENING.exec(text)) {
    starts ??= startsOf(cells);
    const first = tokenAt(starts, match.index);
    const end = endOf(text, match);
    const last = tokenAt(starts, end - 1);
    mark(cells, offset, { first, last, ...naming(match[0]) }, turns);
    OPENING.lastIndex = Math.max(end, match.index + 1);
  }
}

/** @param {DrawnCell[]} cells @param {number} offset @param {TokenBlock} tokenBlock @param {Turns} turns */
function mark(cells, offset, { first, last, kind, label }, turns) {
  turns.blocks.push({ first: offset + first, last: offset + last, kind, label });
  turns.kinds.fill(kind, offset + first, offset + last + 1);
  turns.breaks[offset + first] = 1;
  const next = cells[last + 1];
  if (next && !/^\s*\n/.test(next.raw)) turns.breaks[offset + last + 1] = 1;
}

/**
 * Where a block ends: after its closing mark, else with the turn, else with the text.
 * @param {string} text @param {RegExpExecArray} match
 */
function endOf(text, match) {
  const special = ENDS.find(([pattern]) => pattern.test(match[0]));
  const closing = special ? special[1] : match[0].replace("<", "</");
  const from = match.index + match[0].length;
  const at = closing ? text.indexOf(closing, from) : -1;
  if (closing && at >= 0) return at + closing.length;
  const over = text.slice(from).search(/<\|(?:im_end|eot_id|eom_id|end)\|>|<end_of_turn>|<\/s>/);
  return over >= 0 ? Math.max(from, from + over) : text.length;
}

/** @param {string} opening */
function naming(opening) {
  if (/think|reasoning|THINK/.test(opening)) return { kind: THINKING, label: "thinking" };
  return { kind: TOOL, label: /response/.test(opening) ? "reply" : "tool call" };
}
