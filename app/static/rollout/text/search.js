// Search in a completion's text: which tokens hold a match.

/** The text of the completion and where each token starts in it; kept with the rollout. */
function textOf(rollout) {
  if (!rollout.plainText) {
    const parts = rollout.cells.map((cell) => (cell.kind === "part" ? "" : cell.raw));
    rollout.plainText = { text: parts.join("").toLowerCase(), starts: startsOf(rollout.cells) };
  }
  return rollout.plainText;
}

/** → [[first token, last token], …] of each match, in order. */
export function findAll(rollout, query) {
  const wanted = query.toLowerCase();
  if (!wanted) return [];
  const { text, starts } = textOf(rollout);
  const found = [];
  for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) {
    found.push([tokenAt(starts, at), tokenAt(starts, at + wanted.length - 1)]);
  }
  return found;
}

/** Where each token starts in the text of these cells, and behind them where it ends. */
export function startsOf(cells) {
  const starts = new Int32Array(cells.length + 1);
  cells.forEach((cell, i) => (starts[i + 1] = starts[i] + (cell.kind === "part" ? 0 : cell.raw.length)));
  return starts;
}

/** The last token that starts at or before a character. */
export function tokenAt(starts, character) {
  let low = 0;
  let high = starts.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= character) low = middle;
    else high = middle - 1;
  }
  return low;
}

export function tokensOf(matches) {
  const tokens = new Set();
  for (const [first, last] of matches) for (let i = first; i <= last; i++) tokens.add(i);
  return tokens;
}
