// The rollouts next to this one in the list it was opened from, fetched before they are asked for.
import { openRollout } from "./open.js";
import { Siblings } from "./siblings.js";

const MOST_TOKENS = 4096; // of a neighbour that is fetched ahead
const BUSY_TOKENS = 50_000; // a rollout this long has work enough of its own

export class Neighbours {
  /** `filters` and `at` say which list, and the place in it where that is known. */
  constructor(filters, at) {
    this.filters = filters;
    this.start = at;
    this.siblings = null;
  }

  get at() {
    return this.siblings ? this.siblings.at : this.start;
  }

  set at(place) {
    if (this.siblings) this.siblings.at = place;
    this.start = place;
  }

  /** → [place, total] of a rollout in its list, nulls where it is not found. */
  async locate({ meta }) {
    if (this.siblings?.run !== meta.run_id)
      this.siblings = new Siblings(meta.run_id, this.filters, this.start);
    const { siblings } = this;
    const place = await siblings.locate(meta.id);
    return [place, siblings.total];
  }

  /** The id of the rollout `step` places on, or null. */
  async go(step) {
    if (!this.siblings) return null;
    const at = (this.siblings.at ?? -1) + step;
    const row = await this.siblings.row(at).catch(() => null);
    if (!row) return null;
    this.at = at;
    return row.id;
  }

  async prefetch(rollout) {
    const { siblings } = this;
    if (!siblings || siblings.at === null || rollout.n > BUSY_TOKENS) return;
    for (const step of [1, -1]) {
      const row = await siblings.row(siblings.at + step).catch(() => null);
      if (row && row.tokens <= MOST_TOKENS) await openRollout(row.id).catch(() => {}); // shown when opened
    }
  }
}
