// Search in a completion's text: which tokens hold a match.
import { oncePerObject } from "../state.js";

/** The text of the completion and where each token starts in it. */
const textOf = oncePerObject((/** @type {DrawnCell[]} */ cells) => ({
  text: cells
    .map((cell) => (cell.kind === "part" ? "" : cell.raw))
    .join("")
    .toLowerCase(),
  starts: startsOf(cells),
}));

/**
 * → [[first token, last token], …] of each match, in order.
 * @param {Pick<Rollout, "cells">} options @param {string} query
 */
export function findAll({ cells }, query) {
  const needle = query.toLowerCase();
  if (!needle) return [];
  const { text, starts } = textOf(cells);
  /** @type {[number, number][]} */
  const matches = [];
  for (let at = text.indexOf(needle); at >= 0; at = text.indexOf(needle, at + needle.length)) {
    matches.push([tokenAt(starts, at), tokenAt(starts, at + needle.length - 1)]);
  }
  return matches;
}

/**
 * Where each token starts in the text of these cells, and behind them where it ends.
 * @param {DrawnCell[]} cells
 */
export function startsOf(cells) {
  const starts = new Int32Array(cells.length + 1);
  cells.forEach((cell, i) => {
    starts[i + 1] = starts[i] + (cell.kind === "part" ? 0 : cell.raw.length);
  });
  return starts;
}

/**
 * The last token that starts at or before a character.
 * @param {Int32Array} starts @param {number} character
 */
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

/** @param {[number, number][]} matches */
export function tokensOf(matches) {
  /** @type {Set<number>} */
  const tokens = new Set();
  for (const [first, last] of matches) for (let i = first; i <= last; i++) tokens.add(i);
  return tokens;
}
