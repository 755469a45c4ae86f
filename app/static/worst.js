// The tokens of a run on which coach and student differ most, each with the text around it.
import { get, page } from "./api.js";
import { button, fill, h } from "./dom.js";
import { empty, failed, loading } from "./faces.js";
import { fixed, integer } from "./format.js";
import { glyphs } from "./glyphs.js";

const STEP = 25;

export class WorstTokens {
  constructor(run) {
    this.run = run;
    this.limit = STEP;
    this.list = h("div", { class: "worst-list" });
    this.count = h("span", { class: "muted num" });
    this.element = h(
      "section", { class: "panel worst", "aria-label": "Worst tokens" },
      h("header", {}, h("h2", { text: "Worst tokens" }), h("span", { class: "muted", text: "exact reverse KL, nats" }), h("span", { class: "spacer" }), this.count),
      this.list,
    );
    loading(this.list, "the worst tokens");
  }

  async refresh(filter = {}) {
    this.filter = filter;
    let answer;
    try {
      answer = await get(`runs/${this.run}/hot-tokens`, { limit: this.limit, ...filter });
    } catch (error) {
      failed(this.list, error, () => this.refresh(filter));
      return;
    }
    const print = JSON.stringify(answer);
    if (print === this.print) return;
    this.print = print;
    this.draw(answer);
  }

  draw({ items, total }) {
    this.count.textContent = items.length ? `${integer(items.length)} of ${integer(total)}` : "";
    if (!items.length) {
      empty(this.list, "No tokens yet", "They appear with the first step that keeps its rollouts.");
      return;
    }
    const top = Math.max(...items.map((i) => i.heat));
    const more = total > items.length && button("Show more", () => {
      this.limit += STEP;
      this.refresh(this.filter);
    }, { class: "btn small quiet" });
    fill(this.list, items.map((item) => row(item, top)), more && h("div", { class: "pager" }, more));
  }
}

function row(item, top) {
  const value = item.heat;
  return h(
    "a", {
      class: "worst-row", href: page("rollout", { id: item.rollout_id, pos: item.position }),
      title: `step ${item.step}, position ${item.position}`,
    },
    h(
      "span", { class: "worst-value num" },
      h("span", { class: "worst-bar", style: { width: `${(value / (top || 1)) * 100}%` } }), h("span", { text: fixed(value, 2) }),
    ),
    h(
      "span", { class: "worst-text mono" },
      h("span", { class: "worst-before" }, h("bdi", { text: glyphs(item.before ?? "") })),
      h("mark", { text: glyphs(item.text === " " ? "·" : (item.text ?? "")) || "∅" }),
      h("span", { class: "worst-after" }, h("bdi", { text: glyphs(item.after ?? "") })),
    ),
    h(
      "span", { class: "worst-wanted" },
      item.wanted && [h("span", { class: "muted", text: "coach " }), h("span", { class: "mono", text: glyphs(item.wanted.trim() || item.wanted.replace(/ /g, "·")) })],
    ),
    h("span", { class: "muted num r", text: `step ${item.step}` }),
  );
}
