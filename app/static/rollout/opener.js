// Opens a rollout on the page: fetches it with what it is shown by, shows it, and tells when it is painted.
import { comparedWith } from "./compared.js";
import { openRollout, withColumns } from "./open.js";
import { sameRollout } from "./state.js";
import { toFetch, usableMetric } from "./text/metrics.js";

const EXTRA = ["student_entropy", "teacher_entropy", "advantages"];
const BACKGROUND_DELAY = 30; // ms after the paint, before anything else is fetched

export class Opener {
  /**
   * `on`: start(); shown(rollout, history, isNewest) once it is drawn; painted(rollout, ms) once it is on
   * the screen; idle() when there is time for more; compared(); failed(error, retry).
   * @param {ViewStore} state
   * @param {OpeningActions} on
   */
  constructor(state, on) {
    this.state = state;
    this.on = on;
    this.turn = 0;
    this.comparing = 0;
  }

  /**
   * Opens a rollout in place. `pos`: the token to pin; `history`: "push", "none" or "replace";
   * `other`: the id of a rollout to compare it with.
   * @param {string | null} id
   * @param {OpenOptions} options
   */
  async open(id, { pos = -1, history = "push", other = null } = {}) {
    const turn = ++this.turn;
    const start = performance.now();
    this.on.start();
    if (!id)
      return this.fail({
        message: "No rollout in the address",
        hint: "Open one from a run’s list of rollouts.",
      });
    this.state.patch({ loadingOther: other !== null });
    let loaded;
    try {
      loaded = await this.load(id, other);
    } catch (error) {
      if (turn === this.turn) this.fail(error, () => this.open(id, { pos, history, other }));
      return;
    }
    if (turn === this.turn) this.show(loaded, { pos, history, start });
  }

  /** @param {string} id @param {string | null} other */
  async load(id, other) {
    const opened = await openRollout(id);
    const metric = usableMetric(this.state.get().metricKey, opened);
    const rollout = await withColumns(opened, toFetch(metric, opened)).catch(() => opened); // then it shows untinted
    return { rollout, compared: await comparedWith(other, rollout, metric) };
  }

  /**
   * @param {{rollout: Rollout, compared: Compared | null}} options
   * @param {{pos: number, history: HistoryChange, start: number}} options2
   */
  show({ rollout, compared }, { pos, history, start }) {
    const pinned = pos < rollout.n ? pos : -1;
    const { turn } = this;
    this.comparing++;
    this.state.patch({ rollout, compared, pinned, pointed: -1, panelMetric: null, loadingOther: false });
    this.on.shown(rollout, history, () => turn === this.turn);
    this.whenPainted(rollout, start);
  }

  /** @param {ShownError} error @param {() => unknown} [retry] */
  fail(error, retry) {
    this.state.patch({ rollout: null, compared: null, pinned: -1, pointed: -1, loadingOther: false });
    this.on.failed(error, retry);
  }

  /** Tells once the frame with the tokens has been painted. @param {Rollout} rollout @param {number} start */
  whenPainted(rollout, start) {
    const isShown = () => sameRollout(rollout, this.state.get().rollout);
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => {
        channel.port1.close();
        if (!isShown()) return;
        this.on.painted(rollout, performance.now() - start);
        setTimeout(() => isShown() && this.complete(rollout), BACKGROUND_DELAY);
      };
      channel.port2.postMessage(0);
    });
  }

  /** What the panels show besides. @param {Rollout} rollout */
  async complete(rollout) {
    const more = EXTRA.filter((name) => rollout.meta.columns.includes(name));
    const richer = await withColumns(rollout, more).catch(() => null); // the panels go without them
    if (!sameRollout(rollout, this.state.get().rollout)) return;
    if (richer) this.state.patch({ rollout: richer });
    this.on.idle();
  }

  /** Compares the open rollout with another one of its prompt (null: no longer). @param {string | null} id */
  async compare(id) {
    const { rollout, chosen } = this.state.get();
    if (!rollout) return;
    const turn = ++this.comparing;
    this.state.patch({ loadingOther: id !== null });
    const compared = await comparedWith(id, rollout, chosen);
    if (turn !== this.comparing) return;
    this.state.patch({ compared, panelMetric: null, loadingOther: false });
    this.on.compared();
  }
}
