// The worst tokens over the whole run, one after the other, without leaving the page.
import { get } from "../lib/api.js";
import { openRollout } from "./open.js";

const WINDOW = 50;
const MAX_AHEAD = 40_000; // tokens of a rollout that is fetched before it is needed
const FILTERS = ["step", "min_step", "max_step", "kind", "finish_reason", "correct"];

export class WorstOfRun {
  /**
   * `filters`: those of the list the rollout was opened from.
   * @param {string} run @param {Record<string, string>} filters
   */
  constructor(run, filters) {
    this.run = run;
    this.filters = Object.fromEntries(FILTERS.filter((k) => filters[k]).map((k) => [k, filters[k]]));
    /** @type {HotToken[]} */
    this.items = [];
    this.total = null;
    this.rank = -1;
  }

  /**
   * → {rollout_id, position, rank, total} `step` ranks on; null at either end.
   * @param {number} step @param {string} rollout @param {number} position
   */
  async go(step, rollout, position) {
    const here = this.items[this.rank];
    if (here?.rollout_id !== rollout || here?.position !== position)
      this.rank = this.items.findIndex((i) => i.rollout_id === rollout && i.position === position);
    const rank = this.rank + step;
    const item = await this.item(rank);
    if (!item) return null;
    this.rank = rank;
    return { ...item, rank, total: this.total };
  }

  /** @param {number} rank */
  async item(rank) {
    if (rank < 0 || (this.total !== null && rank >= this.total)) return null;
    if (rank >= this.items.length) {
      const offset = this.items.length;
      const page = await get(`runs/${this.run}/hot-tokens`, { limit: WINDOW, offset, ...this.filters });
      this.total = page.total;
      this.items.push(...page.items);
    }
    return this.items[rank] ?? null;
  }

  /** Fetches the rollout of the next one, so that going there is quick. */
  async prefetch() {
    const next = await this.item(this.rank + 1).catch(() => null);
    if (next && next.position < MAX_AHEAD) await openRollout(next.rollout_id).catch(() => {}); // shown when opened
  }
}
