// Finds runs by name and adds them to the comparison.
import { get } from "../lib/api.js";
import { button, debounce, fill, h } from "../lib/dom.js";
import { ago, nats, percent, plain } from "../lib/format.js";
import { MOST } from "./controls.js";

const OFFERED = 8;

export class Picker {
  /** @param {(id: string) => unknown} add @param {() => string[]} chosen */
  constructor(add, chosen) {
    this.add = add;
    this.chosen = chosen;
    this.field = h("input", {
      class: "field search",
      type: "search",
      placeholder: "Add a run by name",
      "aria-label": "Add a run",
      id: "add-run",
      autocomplete: "off",
      oninput: debounce(150, () => this.look()),
      onfocus: () => this.look(),
      onkeydown: (/** @type {KeyboardEvent} */ e) => this.keys(e),
    });
    this.list = h("div", { class: "popup cmp-results", hidden: true });
    this.element = h("div", { class: "cmp-picker" }, this.field, this.list);
    this.element.addEventListener(
      "focusout",
      (e) => !this.element.contains(/** @type {Node | null} */ (e.relatedTarget)) && this.close(),
    );
  }

  changed() {
    this.field.disabled = this.chosen().length >= MOST;
    this.field.placeholder = this.field.disabled ? `${MOST} runs at most` : "Add a run by name";
  }

  async look() {
    const items = await this.matching(this.field.value.trim());
    this.list.hidden = false;
    fill(
      this.list,
      items instanceof Error
        ? h("p", { class: "bad-text", text: items.message })
        : items.length
          ? items.map((run) => this.offer(run))
          : h("p", { class: "muted", text: "No other runs match." }),
    );
  }

  /** Runs that match and are not compared yet. @param {string} search @returns {Promise<Run[] | Error>} */
  async matching(search) {
    try {
      /** @type {Page<Run>} */
      const { items } = await get("runs", { search, limit: OFFERED + MOST });
      return items.filter((run) => !this.chosen().includes(run.id)).slice(0, OFFERED);
    } catch (error) {
      return error;
    }
  }

  /** @param {Run} run */
  offer(run) {
    const facts = [
      run.status,
      run.score === null ? "" : percent(run.score),
      run.kl === null ? "" : `KL ${nats(run.kl)}`,
      ago(run.created_at),
    ];
    const label = h(
      "span",
      {},
      h("span", { text: plain(run.name || run.id, 60) }),
      h("span", { class: "muted", text: ` ${facts.filter(Boolean).join(" · ")}` }),
    );
    return button(label, () => this.take(run.id), { class: "cmp-offer", "data-offer": run.id });
  }

  /** @param {string} id */
  take(id) {
    this.field.value = "";
    this.close();
    this.add(id);
    if (!this.field.disabled) this.field.focus({ preventScroll: true });
    this.close();
  }

  close() {
    this.list.hidden = true;
  }

  /** @param {KeyboardEvent} event */
  keys(event) {
    if (event.key === "Escape") this.close();
    if (event.key === "ArrowDown") this.list.querySelector("button")?.focus();
    if (event.key === "Enter") this.list.querySelector("button")?.click();
  }

  /** The newest runs, where none is chosen yet. @param {HTMLElement} body */
  async suggest(body) {
    const items = await this.matching("");
    if (this.chosen().length || items instanceof Error || !items.length) return;
    body.append(
      h(
        "section",
        { class: "panel cmp-newest", "aria-label": "Newest runs" },
        h("header", {}, h("h2", { text: "Newest runs" })),
        items.map((run) => this.offer(run)),
      ),
    );
  }
}
