// The right-hand panel of the token page: one token, what if, over time, loss lab.
import { fill, h } from "../../lib/dom.js";

export class SidePanels {
  /**
   * `panels`: tab → [label, panel]. Only the panel of the open tab follows the state: update(snapshot)
   * is called when it opens and whenever a field that it `follows` changes, closed() when another one
   * opens. Nothing is followed before follow().
   * @param {ViewStore} state
   * @param {Record<string, [string, Panel]>} panels
   */
  constructor(state, panels) {
    this.state = state;
    this.panels = panels;
    this.keys = Object.keys(panels);
    this.key = this.keys.includes(state.get().tab) ? state.get().tab : this.keys[0];
    this.unfollow = () => {};
    this.buttons = this.keys.map((key) =>
      h("button", {
        type: "button",
        role: "tab",
        id: `tab-${key}`,
        "aria-controls": `panel-${key}`,
        text: panels[key][0],
        onclick: () => this.open(key),
        onkeydown: (/** @type {KeyboardEvent} */ e) => this.move(e),
      }),
    );
    this.body = h("div", { class: "side-panel", role: "tabpanel", tabindex: "0" });
    this.element = h(
      "aside",
      { class: "side", "aria-label": "Inspector" },
      h("div", { class: "side-tabs", role: "tablist" }, this.buttons),
      this.body,
    );
    this.draw();
  }

  get panel() {
    return this.panels[this.key][1];
  }

  /** Begins to follow the state for the open panel. */
  follow() {
    const { panel } = this;
    /** @param {Readonly<ViewState>} now */
    const update = (now) => now.rollout && panel.update(/** @type {RolloutView} */ (now));
    this.unfollow = this.state.subscribe(panel.follows, update);
    update(this.state.get());
  }

  /** @param {string} key */
  open(key) {
    if (key === this.key) return;
    this.unfollow();
    const left = this.panel;
    this.key = key;
    this.draw();
    left.closed?.();
    this.follow();
    this.state.patch({ tab: key });
  }

  /** @param {KeyboardEvent} event */
  move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const at = (this.keys.indexOf(this.key) + step + this.keys.length) % this.keys.length;
    this.open(this.keys[at]);
    this.buttons[at].focus();
  }

  draw() {
    this.buttons.forEach((button, i) => {
      const open = this.keys[i] === this.key;
      button.ariaSelected = String(open);
      button.tabIndex = open ? 0 : -1;
    });
    this.body.id = `panel-${this.key}`;
    this.body.setAttribute("aria-labelledby", `tab-${this.key}`);
    fill(this.body, this.panel.element);
  }
}
