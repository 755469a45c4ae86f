// The other rollout of a comparison: a bar that says what is compared, and its text where the two part.
import { button, fill, h } from "../../lib/dom.js";
import { integer, plain } from "../../lib/format.js";
import { sameCompletion } from "../compared.js";
import { sameRollout } from "../state.js";
import { shownAs } from "../teachers.js";
import { mirrored } from "../text/difference.js";
import { paint } from "../text/scale.js";
import { reasonAgainstOther } from "../text/tinting.js";
import { TokenText } from "../text/tokens.js";

export class Comparison {
  /**
   * `text` is the open rollout's, beside which the other one stands; `on`: pin(index), open(id,
   * options), end().
   * @param {ViewStore} state
   * @param {TokenText} text
   * @param {ComparisonActions} on
   */
  constructor(state, text, on) {
    this.state = state;
    this.left = text;
    this.on = on;
    this.message = h("span", { class: "cmp-text" });
    this.swap = button("Swap", () => this.swapped(this.state.get().pinned), {
      class: "btn small",
      title: "Open the other rollout, compared with this one",
    });
    const end = button("Plain view", on.end, { class: "btn small", title: "Stop comparing" });
    this.bar = h(
      "div",
      { class: "cmp-bar", role: "status", hidden: true },
      this.message,
      h("span", { class: "spacer" }),
      this.swap,
      end,
    );
    this.right = new TokenText(
      { hover: () => {}, pick: (index) => index !== null && this.picked(index), view: () => {} },
      "The other completion, token by token",
    );
    this.element = h("section", {
      id: "token-other",
      class: "tv-other",
      hidden: true,
      "aria-label": "The other completion",
    });
    scrollTogether(this.left.element, this.right.element, this.element);
  }

  /** Follows the state: first the layout, before it is tinted, then what is drawn by the tints. */
  followLayout() {
    this.state.subscribe(["rollout", "compared", "reader"], (now, before) => {
      if (
        now.reader === before.reader &&
        sameRollout(now.rollout, before.rollout) &&
        isSame(now.compared, before.compared)
      )
        return;
      this.layOut(now);
    });
  }

  followTints() {
    this.state.subscribe(["rollout", "compared", "chosen", "loadingOther"], (now) => this.tell(now));
    this.state.subscribe(["tints", "compared", "underline"], (now) => this.tint(now));
  }

  /**
   * Shows or hides the second text; it has the same width, so that shared lines stand level.
   * @param {Readonly<ViewState>} view
   */
  layOut({ rollout, compared, reader }) {
    const other = otherBeside(rollout, compared);
    const moved = this.element.hidden === (other !== null);
    this.element.hidden = other === null;
    fill(this.element, other && this.right.element); // one text, one tab stop, else
    if (!rollout) return;
    const common = compared?.common ?? 0;
    this.left.markDivergence(other && common < rollout.n ? common : -1);
    if (moved) this.left.resized();
    this.right.clear();
    if (!other) return;
    this.right.markDivergence(common < other.n ? common : -1);
    this.right.maxColumns = this.left.columns;
    this.right.show(shownAs(other, reader));
    this.right.element.scrollTop = this.left.element.scrollTop;
  }

  /**
   * Tints the second text: the difference where both share tokens, then its own values.
   * @param {Readonly<ViewState>} view
   */
  tint({ rollout, compared, chosen, tints, underline, gamma, own }) {
    const other = otherBeside(rollout, compared);
    if (!tints || !rollout || !compared || !other) return;
    if (reasonAgainstOther(chosen, other)) return this.right.tint(untinted(chosen, other.n), false);
    const metric = mirrored(chosen, rollout, { other, common: compared.common });
    this.right.tint(paint(metric, other, { max: tints.top, gamma, own }), underline);
  }

  /** @param {Readonly<ViewState>} view */
  tell({ rollout, compared, chosen, loadingOther }) {
    this.bar.hidden = !rollout || (!compared && !loadingOther);
    if (loadingOther) return this.say("Loading the other rollout …", false);
    if (!rollout || !compared) return;
    this.swap.hidden = !compared.other;
    if (!compared.other) return this.say(compared.problem, true);
    const reason = reasonAgainstOther(chosen, compared.other);
    const names = namesOf(rollout, compared);
    this.say(
      reason ? `${names} The other rollout cannot show this metric: ${reason}.` : names,
      Boolean(reason),
    );
  }

  /** @param {string} text @param {boolean} bad */
  say(text, bad) {
    this.message.classList.toggle("bad", bad);
    this.message.textContent = text;
    this.message.title = text;
  }

  /** @param {number} pos */
  swapped(pos) {
    const { rollout, compared } = this.state.get();
    if (!rollout || !compared?.other) return;
    const { other } = compared;
    this.on.open(other.meta.id, { pos: pos < other.n ? pos : -1, other: rollout.meta.id });
  }

  /**
   * A click on a shared token pins it; on another one, that rollout comes to the left.
   * @param {number} index
   */
  picked(index) {
    const { compared } = this.state.get();
    if (!compared) return;
    if (index < compared.common) this.on.pin(index);
    else this.swapped(index);
  }

  resized() {
    this.right.maxColumns = this.left.columns;
    if (!this.element.hidden) this.right.resized();
  }
}

/**
 * The other rollout where it has a text of its own, else null.
 * @param {Rollout | null} rollout @param {Compared | null} compared
 */
function otherBeside(rollout, compared) {
  return rollout && compared?.other && !sameCompletion(rollout, compared) ? compared.other : null;
}

/** Tints that leave every token bare. @param {Metric} metric @param {number} n @returns {Tints} */
function untinted(metric, n) {
  return { levels: new Uint8Array(n), signs: new Int8Array(n), values: new Float32Array(n), top: 1, metric };
}

/** @param {Compared | null} one @param {Compared | null} other */
function isSame(one, other) {
  return one?.id === other?.id && one?.common === other?.common && sameRollout(one?.other, other?.other);
}

/** @param {HTMLElement} left @param {HTMLElement} right @param {HTMLElement} pane */
function scrollTogether(left, right, pane) {
  /** @param {HTMLElement} from @param {HTMLElement} to */
  const follow = (from, to) => {
    if (!pane.hidden && Math.abs(from.scrollTop - to.scrollTop) >= 1) to.scrollTop = from.scrollTop;
  };
  left.addEventListener("scroll", () => follow(left, right), { passive: true });
  right.addEventListener("scroll", () => follow(right, left), { passive: true });
}

/** @param {Rollout} rollout @param {Compared} compared */
function namesOf(rollout, compared) {
  const { other, common } = compared;
  if (!other) return compared.problem;
  const across = rollout.meta.run_id !== other.meta.run_id;
  const [one, two] = [nameOf(rollout.meta, across), nameOf(other.meta, across)];
  if (sameCompletion(rollout, compared)) return `${one} minus ${two}: the same ${integer(common)} tokens.`;
  return `Left ${one}, right ${two}: the same first ${integer(common)} tokens (of ${integer(rollout.n)} and ${integer(other.n)}), tinted by left minus right.`;
}

/** @param {RolloutMeta} meta @param {boolean} across */
function nameOf(meta, across) {
  const kind = meta.kind === "train" ? "" : `${meta.kind} `;
  const run = across ? `${plain(meta.run_name || meta.run_id, 24)}, ` : "";
  return `${run}${kind}step ${meta.step}${meta.kind === "probe" ? "" : `, sample ${meta.sample}`}`;
}
