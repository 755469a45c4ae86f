// The list a rollout was opened from: its rows by index, and where a rollout stands in it.
import { get } from "../lib/api.js";

const WINDOW = 50;
const MAX_SEARCHED = 1000; // rows
const FILTERS = [
  "sort",
  "step",
  "min_step",
  "max_step",
  "kind",
  "finish_reason",
  "correct",
  "teacher",
  "min_kl",
  "min_kl_max",
  "min_tokens",
  "max_tokens",
  "text",
  "marked",
];

/** The list's filters out of an address, its index in the list left out. @param {URLSearchParams} params */
export function filtersOf(params) {
  return Object.fromEntries(FILTERS.map((k) => [k, params.get(k) ?? ""]).filter(([, value]) => value));
}

export class RolloutList {
  /** @param {string} run @param {Record<string, string>} filters */
  constructor(run, filters) {
    this.run = run;
    this.filters = { sort: "-kl_sum", ...filters };
    this.total = null;
    this.rows = new Map(); // index → row
    this.pending = new Map(); // offset → promise
  }

  /**
   * The index of a rollout, `expected` where it stands there; null where it is not among the first thousand.
   * @param {string} id @param {number | null} expected
   */
  async indexOf(id, expected) {
    if (expected !== null && (await this.row(expected))?.id === id) return expected;
    for (let start = 0; start < Math.min(MAX_SEARCHED, this.total ?? WINDOW); start += WINDOW) {
      await this.row(start);
      for (const [index, row] of this.rows) if (row.id === id) return index;
    }
    return null;
  }

  /** @param {number} index */
  async row(index) {
    if (index < 0 || (this.total !== null && index >= this.total)) return null;
    if (!this.rows.has(index)) await this.load(Math.floor(index / WINDOW) * WINDOW);
    return this.rows.get(index) ?? null;
  }

  /** @param {number} offset */
  load(offset) {
    if (!this.pending.has(offset)) {
      const request = get(`runs/${this.run}/rollouts`, { ...this.filters, offset, limit: WINDOW });
      const loading = request.then((page) => {
        this.total = page.total;
        for (const [k, item] of page.items.entries()) this.rows.set(offset + k, item);
      });
      this.pending.set(offset, loading);
      loading.catch(() => this.pending.delete(offset));
    }
    return this.pending.get(offset);
  }
}
