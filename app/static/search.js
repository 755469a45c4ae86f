// Search in a completion's text: which tokens hold a match.

/** The text of the completion and where each token starts in it; kept with the rollout. */
function textOf(rollout) {
  if (!rollout.plainText) {
    const starts = new Int32Array(rollout.n + 1);
    const parts = rollout.cells.map((cell) => (cell.kind === "part" ? "" : cell.raw));
    let at = 0;
    parts.forEach((part, i) => {
      starts[i] = at;
      at += part.length;
    });
    starts[rollout.n] = at;
    rollout.plainText = { text: parts.join("").toLowerCase(), starts };
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

/** The last token that starts at or before a character. */
function tokenAt(starts, character) {
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
