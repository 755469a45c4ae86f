// The search field's matches in the open rollout, and which of them is shown.
import { findAll, tokensOf } from "./search.js";

/** What is found: the matches, the tokens in them, and the current match; −1: none. */
export const NO_SEARCH = Object.freeze({ query: "", matches: [], tokens: new Set(), current: -1 });

export class Finder {
  /**
   * `pin(index)` is called with the first token of the match that is shown.
   * @param {ViewStore} state
   * @param {(index: number) => unknown} pin
   */
  constructor(state, pin) {
    this.state = state;
    this.pin = pin;
  }

  /** @param {string} query */
  search(query) {
    this.find(query);
    this.next(1);
  }

  /** The matches in the open rollout, none of them shown yet. @param {string} query */
  find(query) {
    const { rollout } = this.state.get();
    const matches = rollout ? findAll(rollout, query) : [];
    this.state.patch({ search: Object.freeze({ query, matches, tokens: tokensOf(matches), current: -1 }) });
  }

  /** @param {number} step */
  next(step) {
    const { search } = this.state.get();
    const count = search.matches.length;
    if (!count) return;
    const current = (search.current + step + count) % count;
    this.state.patch({ search: Object.freeze({ ...search, current }) });
    this.pin(search.matches[current][0]);
  }
}

/** "3 of 12", or how many there are. @param {TokenSearch} tokenSearch */
export function countText({ query, matches, current }) {
  if (!query) return "";
  return current < 0 ? `${matches.length} found` : `${current + 1} of ${matches.length}`;
}
