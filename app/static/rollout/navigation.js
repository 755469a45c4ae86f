// Going from token to token and from rollout to rollout.
import { toast } from "../lib/dom.js";
import { Neighbours } from "./neighbours.js";
import { WorstOfRun } from "./run_worst.js";
import { sameRollout } from "./state.js";
import { ranksOf, worstFirst } from "./text/metrics.js";

export class Navigation {
  /**
   * `text` is laid out; `list` the filters of the list that the rollout was opened from, and its index
   * there; `on`: pin(index), open(id, options), rankOfRun(rank, total) among the run's worst tokens.
   * @param {ViewStore} state
   * @param {TextView} text @param {ListOrigin} listOrigin @param {NavigationActions} navigationActions
   */
  constructor(state, text, { filters, at }, { pin, open, rankOfRun }) {
    this.state = state;
    this.text = text;
    this.filters = filters;
    this.neighbours = new Neighbours(filters, at);
    this.pin = pin;
    this.open = open;
    this.rankOfRun = rankOfRun;
    /** @type {WorstOfRun | null} */
    this.worstTokens = null;
  }

  /** Goes `step` tokens on. @param {number} step */
  token(step) {
    const { rollout, pinned } = this.state.get();
    if (!rollout?.n) return;
    const from = pinned < 0 ? (step > 0 ? -1 : 1) : pinned;
    this.pin(Math.max(0, Math.min(rollout.n - 1, from + step)));
  }

  /** To the nearest token on the next line (1), or the one before (−1). @param {number} step */
  line(step) {
    const { rollout, pinned } = this.state.get();
    if (!rollout) return;
    if (pinned < 0) this.token(step);
    else this.pin(this.text.tokenAcross(pinned, step));
  }

  first() {
    if (this.state.get().rollout?.n) this.pin(0);
  }

  last() {
    const { rollout } = this.state.get();
    if (rollout?.n) this.pin(rollout.n - 1);
  }

  unpin() {
    if (this.state.get().rollout) this.pin(-1);
  }

  /** Goes `step` ranks down the worst-first order of the shown metric. @param {number} step */
  worst(step) {
    const { rollout, metric, pinned } = this.state.get();
    if (!rollout?.n) return;
    const order = worstFirst(metric, rollout);
    const rank = pinned < 0 ? (step > 0 ? -1 : 1) : ranksOf(metric, rollout)[pinned] - 1;
    this.pin(order[Math.max(0, Math.min(order.length - 1, rank + step))]);
  }

  /**
   * Goes `step` ranks through the worst tokens of the whole run, from rollout to rollout.
   * @param {number} step
   */
  async worstOfRun(step) {
    const { rollout, pinned } = this.state.get();
    if (!rollout) return;
    const { id, run_id: run } = rollout.meta;
    const list = this.listOf(run);
    try {
      const next = await list.go(step, id, pinned);
      if (!next)
        return toast(step > 0 ? "No more stored worst tokens in this run" : "This is the run’s worst token");
      if (next.rollout_id === id) this.pin(next.position);
      else await this.open(next.rollout_id, { pos: next.position });
      this.rankOfRun(next.rank, next.total);
      await list.prefetch();
    } catch (error) {
      toast(error.message);
    }
  }

  /** @param {string} run */
  listOf(run) {
    if (!this.worstTokens || this.worstTokens.run !== run)
      this.worstTokens = new WorstOfRun(run, this.filters);
    return this.worstTokens;
  }

  /** Opens the rollout `step` rows on in the list it was opened from. @param {number} step */
  async sibling(step) {
    const id = await this.neighbours.go(step);
    if (id) await this.open(id);
  }

  /** What the next keys will need: the order of the worst tokens, the rollouts next to this one. */
  async prefetch() {
    const { rollout, metric } = this.state.get();
    if (!rollout) return;
    ranksOf(metric, rollout);
    await this.neighbours.prefetch(rollout);
    if (sameRollout(rollout, this.state.get().rollout))
      await this.listOf(rollout.meta.run_id)
        .item(0)
        .catch(() => {}); // shown when it is needed
  }
}
