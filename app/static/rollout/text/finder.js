// The search field's matches in the open rollout, and which of them is shown.
import { findAll, tokensOf } from "./search.js";

export class Finder {
  /** `view` is the rollout page. */
  constructor(view) {
    this.view = view;
    this.forget();
  }

  forget() {
    this.matches = [];
    this.match = -1;
  }

  search(query) {
    const { text, toolbar, rollout } = this.view;
    this.matches = findAll(rollout, query);
    this.match = -1;
    text.mark(tokensOf(this.matches), -1);
    toolbar.showCount(query ? `${this.matches.length} found` : "");
    if (this.matches.length) this.next(1);
  }

  next(step) {
    const { text, toolbar } = this.view;
    const count = this.matches.length;
    if (!count) return;
    this.match = (this.match + step + count) % count;
    const index = this.matches[this.match][0];
    text.mark(text.hits, index);
    toolbar.showCount(`${this.match + 1} of ${count}`);
    this.view.pin(index);
  }
}
