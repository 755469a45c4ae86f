// The right-hand panel of the token view: one token, what if, over time, loss lab.
import { fill, h } from "../../lib/dom.js";

export class Side {
  /**
   * `tabs`: [key, label, panel]; a panel has `element`, `show(rollout)` for another rollout and
   * `token(index, pinned)` for another token (−1: none). Only the open one is told.
   */
  constructor(tabs, state, changed) {
    this.tabs = tabs;
    this.changed = changed;
    this.key = tabs.some(([key]) => key === state) ? state : tabs[0][0];
    this.buttons = tabs.map(([key, label]) =>
      h("button", {
        type: "button",
        role: "tab",
        id: `tab-${key}`,
        "aria-controls": `panel-${key}`,
        text: label,
        onclick: () => this.open(key),
        onkeydown: (e) => this.move(e),
      }),
    );
    this.place = h("div", { class: "side-panel", role: "tabpanel", tabindex: "0" });
    this.element = h(
      "aside",
      { class: "side", "aria-label": "Inspector" },
      h("div", { class: "side-tabs", role: "tablist" }, this.buttons),
      this.place,
    );
    this.shown = { rollout: null, index: -1, pinned: false };
    this.draw();
  }

  get panel() {
    return this.tabs.find(([key]) => key === this.key)[2];
  }

  open(key) {
    if (key === this.key) return;
    this.key = key;
    this.draw();
    this.tell();
    this.changed(key);
  }

  move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const at = this.tabs.findIndex(([key]) => key === this.key);
    this.open(this.tabs[(at + step + this.tabs.length) % this.tabs.length][0]);
    this.buttons.find((b) => b.ariaSelected === "true").focus();
  }

  draw() {
    this.buttons.forEach((button, i) => {
      const open = this.tabs[i][0] === this.key;
      button.ariaSelected = String(open);
      button.tabIndex = open ? 0 : -1;
    });
    this.place.id = `panel-${this.key}`;
    this.place.setAttribute("aria-labelledby", `tab-${this.key}`);
    fill(this.place, this.panel.element);
  }

  tell() {
    const { rollout, index, pinned } = this.shown;
    if (!rollout) return;
    this.panel.show(rollout);
    this.panel.token(index, pinned);
  }

  show(rollout) {
    this.shown = { rollout, index: -1, pinned: false };
    this.panel.show(rollout);
  }

  token(index, pinned) {
    this.shown = { ...this.shown, index, pinned };
    this.panel.token(index, pinned);
  }
}
