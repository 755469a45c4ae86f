// The rollouts next to this one in the list it was opened from, fetched before they are needed.
import { openRollout } from "./open.js";
import { RolloutList } from "./rollout_list.js";

const MAX_TOKENS = 4096; // of a neighbour that is fetched ahead
const BUSY_TOKENS = 50_000; // a rollout this long has work enough of its own

export class Neighbours {
  /**
   * `filters` say which list; `at` is the rollout's index in it, null while it is not known.
   * @param {Record<string, string>} filters @param {number | null} at
   */
  constructor(filters, at) {
    this.filters = filters;
    /** @type {number | null} */
    this.at = at;
    /** @type {RolloutList | null} */
    this.list = null;
  }

  /** → {index, total} of a rollout in its list, nulls where it is not in it. @param {Rollout} rollout */
  async locate({ meta }) {
    if (!this.list || this.list.run !== meta.run_id) this.list = new RolloutList(meta.run_id, this.filters);
    const { list } = this;
    this.at = await list.indexOf(meta.id, this.at);
    return { index: this.at, total: list.total };
  }

  /** The id of the rollout `step` rows on, or null. @param {number} step */
  async go(step) {
    if (!this.list) return null;
    const at = (this.at ?? -1) + step;
    const row = await this.list.row(at).catch(() => null);
    if (!row) return null;
    this.at = at;
    return row.id;
  }

  /** @param {Rollout} rollout */
  async prefetch(rollout) {
    const { list, at } = this;
    if (!list || at === null || rollout.n > BUSY_TOKENS) return;
    for (const step of [1, -1]) {
      const row = await list.row(at + step).catch(() => null);
      if (row && row.tokens <= MAX_TOKENS) await openRollout(row.id).catch(() => {}); // shown when opened
    }
  }
}
