// The list a rollout was opened from: which one is next and which one is before it.
import { get } from "../lib/api.js";

const WINDOW = 50;
const DEEPEST = 1000;
const FILTERS = [
  "sort",
  "step",
  "min_step",
  "max_step",
  "kind",
  "finish_reason",
  "correct",
  "min_kl",
  "min_kl_max",
  "min_tokens",
  "max_tokens",
  "text",
];

/** The list's filters out of an address, its place in the list left out. */
export function filtersOf(params) {
  return Object.fromEntries(FILTERS.filter((k) => params.get(k)).map((k) => [k, params.get(k)]));
}

export class Siblings {
  constructor(run, filters, at) {
    this.run = run;
    this.filters = { sort: "-kl_sum", ...filters };
    this.at = at; // place in the list, null while not known
    this.total = null;
    this.rows = new Map(); // place → row
    this.pending = new Map();
  }

  /** Finds the place of a rollout that was opened without one: among the list's first thousand. */
  async locate(id) {
    if (this.at !== null && (await this.row(this.at))?.id === id) return this.at;
    for (let at = 0; at < Math.min(DEEPEST, this.total ?? WINDOW); at += WINDOW) {
      await this.row(at);
      for (const [place, row] of this.rows) if (row.id === id) return (this.at = place);
    }
    return (this.at = null);
  }

  async row(at) {
    if (at < 0 || (this.total !== null && at >= this.total)) return null;
    if (!this.rows.has(at)) await this.load(Math.floor(at / WINDOW) * WINDOW);
    return this.rows.get(at) ?? null;
  }

  load(offset) {
    if (!this.pending.has(offset)) {
      const request = get(`runs/${this.run}/rollouts`, { ...this.filters, offset, limit: WINDOW });
      const done = request.then((answer) => {
        this.total = answer.total;
        answer.items.forEach((item, k) => this.rows.set(offset + k, item));
      });
      this.pending.set(offset, done);
      done.catch(() => this.pending.delete(offset));
    }
    return this.pending.get(offset);
  }
}
