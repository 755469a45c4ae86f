// Below a short completion: other samples of its prompt, at its own step first, tinted as the text above.
import { get, page } from "../../lib/api.js";
import { button, fill, h } from "../../lib/dom.js";
import { integer, nats } from "../../lib/format.js";
import { classOf } from "../../lib/palette.js";
import { verdictTag } from "../head.js";
import { openRollout } from "../open.js";
import { sameRollout } from "../state.js";
import { paint } from "../text/scale.js";
import { reasonAgainstOther, withMetric } from "../text/tinting.js";

const FEW = 4; // shown at first, and added by "more"
const MOST = 60;
const ROOM = 160; // px that must be empty below the text
const LONGEST = 2000; // tokens of a rollout that is fetched for this list
const DRAWN = 200; // tokens of each

export class SamePrompt {
  /** @param {ViewStore} state */
  constructor(state) {
    this.state = state;
    this.shown = FEW;
    /** @type {RolloutItem[]} */
    this.items = [];
    this.of = ""; // the rollout whose prompt they share
    this.element = h("section", { class: "same-prompt", hidden: true, "aria-label": "Same prompt" });
    state.subscribe(["tints", "metric"], () => !this.element.hidden && this.draw());
  }

  /** Fetches the list where a text of `height` px leaves room for it. @param {Rollout} rollout @param {HTMLElement} text @param {number} height */
  async fit(rollout, text, height) {
    const column = text.parentElement;
    const room = column ? column.clientHeight - height : 0;
    const { id } = rollout.meta;
    if (room < ROOM) return this.hide(text);
    if (this.of !== id) {
      this.of = id;
      this.shown = FEW;
      this.items = [];
      const answer = await get(`rollouts/${id}/related`, { near: true, limit: MOST }).catch(() => null);
      if (this.of !== id || !sameRollout(rollout, this.state.get().rollout)) return;
      this.items = answer?.items ?? [];
    }
    if (!this.items.length) return this.hide(text);
    this.element.hidden = false;
    text.style.flex = `0 0 ${height}px`;
    this.draw();
  }

  /** @param {HTMLElement} text */
  hide(text) {
    this.element.hidden = true;
    text.style.flex = "";
  }

  draw() {
    const { rollout } = this.state.get();
    if (!rollout || this.of !== rollout.meta.id) return;
    const items = this.items.slice(0, this.shown);
    const more = this.items.length - items.length;
    fill(
      this.element,
      h("h2", { text: "Same prompt" }),
      items.map((item) => this.row(item)),
      more > 0 && button(`More (${integer(more)})`, () => this.more(), { class: "btn small" }),
    );
  }

  more() {
    this.shown += FEW;
    this.draw();
  }

  /** @param {RolloutItem} item */
  row(item) {
    const text = h("span", { class: "same-text mono", text: "…" });
    if (item.tokens <= LONGEST) this.tint(item.id, text);
    else text.textContent = `${integer(item.tokens)} tokens`;
    const kind = item.kind === "train" ? "" : `${item.kind} `;
    const facts = `KL mean ${nats(item.kl_mean)} · ${integer(item.tokens)} tokens`;
    return h(
      "a",
      { class: "same-row", href: page("rollout", { id: item.id }), "data-rollout": item.id },
      h("span", { class: "muted num", text: `${kind}step ${item.step} · sample ${item.sample}` }),
      verdictTag(item),
      h("span", { class: "muted num", text: facts }),
      text,
    );
  }

  /** @param {string} id @param {HTMLElement} element */
  async tint(id, element) {
    const { chosen, tints, gamma } = this.state.get();
    const other = await openRollout(id)
      .then((rollout) => withMetric(rollout, chosen))
      .catch(() => null);
    if (!other) {
      element.textContent = "not loaded";
      return;
    }
    const plain = !tints || Boolean(reasonAgainstOther(chosen, other));
    const painted = plain ? null : paint(chosen, other, { max: tints.top, gamma, own: false });
    fill(
      element,
      other.cells.slice(0, DRAWN).map((cell, i) =>
        h("span", {
          class: painted ? classOf(painted.levels[i], painted.signs[i]) : "",
          text: cell.lines.join(""),
        }),
      ),
      other.n > DRAWN && h("span", { class: "muted", text: ` … ${integer(other.n - DRAWN)} more` }),
    );
  }
}
