// The part of Markdown that our documents use, as blocks and spans; whoever draws them makes elements
// of them, and no text becomes markup.

const SPAN = /`([^`]+)`|\*\*((?:[^*]|\*(?!\*))+)\*\*|\*([^*\s][^*]*)\*|\[([^\]]+)\]\(([^)\s]+)\)/;
const ITEM = /^(?:- |(\d+)\. )(.*)$/;

/** @param {string} text @returns {Block[]} */
export function blocksOf(text) {
  /** @type {Block[]} */
  const blocks = [];
  const lines = text.split("\n");
  for (let at = 0; at < lines.length; ) {
    const line = lines[at];
    const heading = /^(#{1,3}) (.*)$/.exec(line);
    if (!line.trim() || /^<!--.*-->$/.test(line)) at++;
    else if (heading) {
      blocks.push({ kind: "heading", level: heading[1].length, spans: spansOf(heading[2]) });
      at++;
    } else if (line.startsWith("```")) at = takeCode(lines, at, blocks);
    else if (line.startsWith("|")) at = takeTable(lines, at, blocks);
    else if (ITEM.test(line)) at = takeList(lines, at, blocks);
    else at = takeParagraph(lines, at, blocks);
  }
  return blocks;
}

/** @param {string[]} lines @param {number} at @param {Block[]} blocks */
function takeCode(lines, at, blocks) {
  let end = at + 1;
  while (end < lines.length && !lines[end].startsWith("```")) end++;
  blocks.push({ kind: "code", text: lines.slice(at + 1, end).join("\n") });
  return end + 1;
}

/** @param {string[]} lines @param {number} at @param {Block[]} blocks */
function takeTable(lines, at, blocks) {
  let end = at;
  while (end < lines.length && lines[end].startsWith("|")) end++;
  const [head, , ...rows] = lines.slice(at, end).map((line) => cellsOf(line).map(spansOf));
  blocks.push({ kind: "table", head, rows });
  return end;
}

/** The cells of a row; `\|` is a stroke within one. @param {string} line */
function cellsOf(line) {
  return line
    .replace(/^\||\|\s*$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.replaceAll("\\|", "|").trim());
}

/** @param {string[]} lines @param {number} at @param {Block[]} blocks */
function takeList(lines, at, blocks) {
  const ordered = /^\d/.test(lines[at]);
  /** @type {Span[][]} */
  const items = [];
  let end = at;
  for (let match = ITEM.exec(lines[end]); match; match = ITEM.exec(lines[++end] ?? "")) {
    if (ordered !== (match[1] !== undefined)) break;
    items.push(spansOf(match[2]));
  }
  blocks.push({ kind: "list", ordered, items });
  return end;
}

/** @param {string[]} lines @param {number} at @param {Block[]} blocks */
function takeParagraph(lines, at, blocks) {
  let end = at;
  while (end < lines.length && lines[end].trim() && !/^(#{1,3} |\||```|- |\d+\. )/.test(lines[end])) end++;
  end = Math.max(end, at + 1);
  blocks.push({ kind: "paragraph", spans: spansOf(lines.slice(at, end).join(" ")) });
  return end;
}

/** @param {string} text @returns {Span[]} */
function spansOf(text) {
  const match = SPAN.exec(text);
  if (!match) return text ? [{ kind: "text", text }] : [];
  const [whole, code, strong, emphasis, label, target] = match;
  /** @type {Span} */
  let span;
  if (code !== undefined) span = { kind: "code", text: code };
  else if (strong !== undefined) span = { kind: "strong", spans: spansOf(strong) };
  else if (emphasis !== undefined) span = { kind: "emphasis", spans: spansOf(emphasis) };
  else span = { kind: "link", spans: spansOf(label), target };
  return [...spansOf(text.slice(0, match.index)), span, ...spansOf(text.slice(match.index + whole.length))];
}

/** The words of spans, without their form. @param {Span[]} spans @returns {string} */
export function wordsOf(spans) {
  return spans.map((span) => ("text" in span ? span.text : wordsOf(span.spans))).join("");
}

/** A heading's name in an address. @param {Span[]} spans */
export function anchorOf(spans) {
  return wordsOf(spans)
    .toLowerCase()
    .replace(/[^\p{L}\p{N} -]/gu, "")
    .replaceAll(" ", "-");
}
