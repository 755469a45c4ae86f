// Which metric the text is tinted by, and the tints: computed anew when what they depend on changes.
import { withColumns } from "../open.js";
import { sameRollout } from "../state.js";
import { differenceOf } from "./difference.js";
import { METRICS, reasonAgainst, toFetch, usableMetric } from "./metrics.js";
import { paint } from "./scale.js";

/** @type {(keyof ViewState)[]} */
const SCALE = ["max", "gamma", "own", "palette"];

/**
 * Keeps `chosen` and `metric` up to date: the listed metric, and what the text is tinted by.
 * @param {ViewStore} state
 */
export function deriveMetric(state) {
  state.subscribe(["rollout", "metricKey", "panelMetric", "compared"], (now, before) => {
    const { rollout, compared } = now;
    if (!rollout) return;
    const chosen = usableMetric(now.metricKey, rollout);
    let metric = now.panelMetric ?? chosen;
    if (metric === chosen && compared?.other && !reasonAgainstOther(chosen, compared.other))
      metric = differenceOf(chosen, rollout, { other: compared.other, common: compared.common });
    if (toFetch(metric, rollout).length) metric = untinted(metric, rollout);
    const same = metric.key === now.metric.key && sameRollout(rollout, before.rollout);
    state.patch({ chosen, metric: same ? now.metric : metric });
  });
}

/** Keeps `tints` up to date. @param {ViewStore} state */
export function deriveTints(state) {
  /** @type {(keyof ViewState)[]} */
  const inputs = ["metric", ...SCALE];
  state.subscribe(["rollout", ...inputs], (now, before) => {
    const changed = inputs.some((field) => now[field] !== before[field]);
    if (changed || !sameRollout(now.rollout, before.rollout)) repaint(state);
  });
}

/** New tints of what is shown, so that everything tinted is drawn again. @param {ViewStore} state */
export function repaint(state) {
  const { rollout, metric, max, gamma, own } = state.get();
  if (!rollout) return;
  const scale = metric.key === "none" ? { max: 1, gamma, own } : { max, gamma, own };
  state.patch({ tints: Object.freeze(paint(metric, rollout, scale)) });
}

/**
 * Why the other rollout of a comparison cannot be tinted by a metric, or "".
 * @param {Metric} metric @param {Rollout} other
 */
export function reasonAgainstOther(metric, other) {
  return reasonAgainst(metric, other) || (toFetch(metric, other).length ? "its values did not load" : "");
}

/**
 * A rollout with no scores at all is shown as bare text. @returns {Metric}
 * @param {Metric} metric @param {Rollout} rollout
 */
function untinted(metric, rollout) {
  const none = new Float32Array(rollout.n);
  return {
    ...metric,
    key: "none",
    of: () => none,
    needs: [],
    means: "no scores are stored for this rollout",
  };
}

/** The choice of a metric from the list, which may have to fetch its columns first. */
export class MetricChoice {
  /**
   * `done()` is called when the metric is shown, `failed(error)` when its values did not come.
   * @param {ViewStore} state
   * @param {{done: () => unknown, failed: (error: ShownError) => unknown}} options
   */
  constructor(state, { done, failed }) {
    this.state = state;
    this.done = done;
    this.failed = failed;
    this.latest = null; // the newest one asked for, until it is shown
  }

  /** @param {string} key */
  async choose(key) {
    const { rollout, compared } = this.state.get();
    if (!rollout) return;
    const metric = usableMetric(key, rollout);
    this.latest = metric;
    try {
      const [richer, other] = await Promise.all([
        withColumns(rollout, toFetch(metric, rollout)),
        compared?.other && withMetric(compared.other, metric),
      ]);
      this.take(key, metric, richer, other);
    } catch (error) {
      if (this.latest !== metric) return;
      this.latest = null;
      this.failed(error);
    }
  }

  /**
   * @param {string} key
   * @param {Metric} metric
   * @param {Rollout} rollout
   * @param {Rollout | null | undefined} other
   */
  take(key, metric, rollout, other) {
    const now = this.state.get();
    if (this.latest !== metric || !sameRollout(now.rollout, rollout)) return;
    this.latest = null;
    let { compared } = now;
    if (compared && sameRollout(compared.other, other))
      compared = Object.freeze({ ...compared, other: other ?? null });
    this.state.patch({ metricKey: key, rollout, compared, panelMetric: null, max: 0 });
    this.done();
  }

  /** @param {number} step */
  cycle(step) {
    const { rollout, chosen } = this.state.get();
    if (!rollout) return;
    const usable = METRICS.filter((m) => !reasonAgainst(m, rollout));
    const at = usable.indexOf(this.latest ?? chosen);
    if (usable.length) this.choose(usable[(at + step + usable.length) % usable.length].key);
  }
}

/**
 * The rollout with the columns that a metric needs, where it has them.
 * @param {Rollout} rollout @param {Metric} metric
 */
export async function withMetric(rollout, metric) {
  return reasonAgainst(metric, rollout) ? rollout : withColumns(rollout, toFetch(metric, rollout));
}
