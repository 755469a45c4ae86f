// The text of the open rollout and what stands around it: strip, legend and profile, below a short text
// other samples of its prompt, in its place the plain text.
import { h, onFrame } from "../../lib/dom.js";
import { sameRollout } from "../state.js";
import { sameText, shownAs } from "../teachers.js";
import { Minimap } from "../text/minimap.js";
import { Profile } from "../text/profile.js";
import { TokenText } from "../text/tokens.js";
import { legend } from "../text/toolbar.js";
import { PlainText } from "./plain_text.js";
import { SamePrompt } from "./same_prompt.js";

export class TokenView {
  /**
   * `on`: a token is under the pointer, or picked (−1: none).
   * @param {ViewStore} state @param {{point: (index: number) => void, pin: (index: number) => void}} on
   */
  constructor(state, { point, pin }) {
    this.state = state;
    this.text = new TokenText({
      hover: onFrame((/** @type {number | null} */ index) => point(index ?? -1)),
      pick: (index) => pin(index ?? -1),
      view: (first, last) => this.viewed(first, last),
    });
    this.plain = new PlainText();
    this.minimap = new Minimap((line) => this.text.centre(line));
    this.profile = new Profile(pin);
    this.samePrompt = new SamePrompt(state);
    this.legend = h("div", { class: "legend" });
    this.element = h(
      "section",
      { id: "token-view", class: "tv", "data-ready": "false" },
      h("div", { class: "tv-column" }, this.text.element, this.plain.element, this.samePrompt.element),
      this.minimap.element,
    );
    this.foot = h("div", { class: "rt-foot" }, this.legend, this.profile.element);
  }

  focus() {
    this.text.element.focus({ preventScroll: true });
  }

  /** @param {Rollout} rollout @param {PromptReader} reader */
  layOutPrompt(rollout, reader) {
    this.text.again(shownAs(rollout, reader));
  }

  /**
   * → whether another text stands there now.
   * @param {Rollout} rollout @param {Rollout | null} before @param {PromptReader} reader
   */
  layOut(rollout, before, reader) {
    const started = performance.now();
    const shown = shownAs(rollout, reader);
    const same = sameRollout(rollout, before);
    if (!same) this.samePrompt.hide(this.text.element);
    const stays = before !== null && (same || sameText(rollout, before, reader));
    if (stays) this.text.swap(shown);
    else {
      this.text.clear();
      this.text.show(shown);
      this.text.element.scrollTop = 0;
    }
    if (same) return false;
    this.layoutMs = performance.now() - started;
    this.plain.show(rollout);
    return !stays;
  }

  /** @param {Readonly<ViewState>} view */
  reveal({ rollout, pinned }) {
    if (!rollout) return;
    this.text.select(pinned);
    if (pinned >= 0) this.text.reveal(pinned);
  }

  /** @param {Readonly<ViewState>} view */
  markPin({ rollout, tints, pinned }) {
    if (!rollout || !tints) return;
    this.minimap.markPin(pinned < 0 ? null : this.text.lineOf(pinned));
    this.profile.markPin(pinned);
  }

  /** @param {Readonly<ViewState>} now */
  draw(now) {
    const { rollout, tints, gamma, underline } = now;
    if (!rollout || !tints) return;
    legend(this.legend, tints, gamma, rollout.meta.temperature);
    this.minimap.draw(this.text.layout, tints, this.text.prompt);
    this.profile.draw(tints);
    this.text.tint(tints, underline && tints.metric.key !== "none");
    this.markPin(now);
  }

  /** @param {number} first @param {number} last */
  viewed(first, last) {
    if (!this.minimap.unit) return;
    this.minimap.mark(first, last);
    this.profile.mark(this.text.tokenAtLine(first), this.text.tokenAtLine(last + 1));
  }

  fitSamePrompt() {
    const { rollout } = this.state.get();
    if (rollout && !this.text.element.hidden)
      this.samePrompt.fit(rollout, this.text.element, this.text.sizer.offsetHeight);
  }

  /** @param {boolean} on */
  usePlain(on) {
    this.plain.toggle(on, [this.text.element, this.minimap.element]);
    if (on) this.samePrompt.hide(this.text.element);
  }

  /** @param {boolean} ready */
  setReady(ready) {
    this.element.dataset.ready = String(ready);
  }

  /**
   * Tells tests and readers that the tokens are on the screen.
   * @param {Rollout} rollout @param {number} total
   */
  painted(rollout, total) {
    const { meta, n, timings } = rollout;
    Object.assign(this.element.dataset, { tokens: String(n), rollout: meta.id });
    this.setReady(true);
    window.__opd = { open: { id: meta.id, tokens: n, total, layout: this.layoutMs, ...timings } };
  }
}
