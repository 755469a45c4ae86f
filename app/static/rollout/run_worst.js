// The worst tokens over the whole run, one after the other, without leaving the page.
import { get } from "../lib/api.js";
import { openRollout } from "./open.js";

const WINDOW = 50;
const MOST_AHEAD = 40_000; // tokens of a rollout that is fetched before it is asked for
const FILTERS = ["step", "min_step", "max_step", "kind", "finish_reason", "correct"];

export class RunWorst {
  /** `filters`: those of the list the rollout was opened from. */
  constructor(run, filters) {
    this.run = run;
    this.filters = Object.fromEntries(FILTERS.filter((k) => filters[k]).map((k) => [k, filters[k]]));
    this.items = [];
    this.total = null;
    this.place = -1;
  }

  /** → {rollout_id, position, place, total} `step` places on; null at either end. */
  async go(step, rollout, position) {
    const here = this.items[this.place];
    if (here?.rollout_id !== rollout || here?.position !== position)
      this.place = this.find(rollout, position);
    const next = this.place + step;
    const item = await this.item(next);
    if (!item) return null;
    this.place = next;
    return { ...item, place: next, total: this.total };
  }

  find(rollout, position) {
    return this.items.findIndex((i) => i.rollout_id === rollout && i.position === position);
  }

  async item(place) {
    if (place < 0 || (this.total !== null && place >= this.total)) return null;
    if (place >= this.items.length) {
      const offset = this.items.length;
      const answer = await get(`runs/${this.run}/hot-tokens`, { limit: WINDOW, offset, ...this.filters });
      this.total = answer.total;
      this.items.push(...answer.items);
    }
    return this.items[place] ?? null;
  }

  /** Fetches the rollout of the next one, so that going there is quick. */
  async prefetch() {
    const next = await this.item(this.place + 1).catch(() => null);
    if (next && next.position < MOST_AHEAD) await openRollout(next.rollout_id).catch(() => {}); // shown when opened
  }
}
