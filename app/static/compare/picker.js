// Finds runs by name and adds them to the comparison.
import { get } from "../lib/api.js";
import { button, debounce, fill, h } from "../lib/dom.js";
import { ago, nats, percent, plain } from "../lib/format.js";
import { MOST } from "./controls.js";

const OFFERED = 8;

export class Picker {
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
      onkeydown: (e) => this.keys(e),
    });
    this.list = h("div", { class: "popup cmp-found", hidden: true });
    this.element = h("div", { class: "cmp-picker" }, this.field, this.list);
    this.element.addEventListener("focusout", (e) => !this.element.contains(e.relatedTarget) && this.close());
  }

  changed() {
    this.field.disabled = this.chosen().length >= MOST;
    this.field.placeholder = this.field.disabled ? `${MOST} runs at most` : "Add a run by name";
  }

  async look() {
    const items = await this.found(this.field.value.trim());
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

  async found(search) {
    try {
      const { items } = await get("runs", { search, limit: OFFERED + MOST });
      return items.filter((run) => !this.chosen().includes(run.id)).slice(0, OFFERED);
    } catch (error) {
      return error;
    }
  }

  offer(run) {
    const facts = [
      run.status,
      run.score === null ? "" : percent(run.score),
      run.kl === null ? "" : `KL ${nats(run.kl)}`,
      ago(run.created_at),
    ];
    return button("", () => this.take(run.id), { class: "cmp-offer", "data-offer": run.id }).appendChild(
      h(
        "span",
        {},
        h("span", { text: plain(run.name || run.id, 60) }),
        h("span", { class: "muted", text: ` ${facts.filter(Boolean).join(" · ")}` }),
      ),
    ).parentElement;
  }

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

  keys(event) {
    if (event.key === "Escape") this.close();
    if (event.key === "ArrowDown") this.list.querySelector("button")?.focus();
    if (event.key === "Enter") this.list.querySelector("button")?.click();
  }

  /** The newest runs, where none is chosen yet. */
  async suggest(body) {
    const items = await this.found("");
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
