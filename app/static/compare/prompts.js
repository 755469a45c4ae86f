// Prompts that all compared runs share, each with every run's newest rollout.
import { get, page } from "../lib/api.js";
import { button, fill, h, link, scrollBox } from "../lib/dom.js";
import { integer, nats, plain, verdict } from "../lib/format.js";
import { empty, failed, loading } from "../lib/panel_states.js";
import { glyphs } from "../rollout/text/glyphs.js";
import { letterOf, swatch } from "./chart.js";

const PAGE = 10;

export class Prompts {
  /** @type {string[]} */
  runs;

  constructor() {
    this.count = h("span", { class: "muted num" });
    this.body = scrollBox("Shared prompts");
    this.pager = h("div", { class: "pager", hidden: true });
    this.element = h(
      "section",
      { class: "panel", "aria-label": "Shared prompts" },
      h("header", {}, h("h2", { text: "The same prompt, side by side" }), this.count),
      this.body,
      this.pager,
    );
  }

  /** @param {string[]} runs */
  show(runs) {
    if (runs.join() === this.runs?.join()) return;
    this.runs = runs;
    this.load(0);
  }

  /** @param {number} offset */
  async load(offset) {
    const runs = this.runs;
    loading(this.body, "the prompts");
    try {
      const list = await get("compare/prompts", { runs: runs.join(","), limit: PAGE, offset });
      if (runs === this.runs) this.draw(list, offset);
    } catch (error) {
      if (runs === this.runs) failed(this.body, error, () => this.load(offset));
    }
  }

  /** @param {Page<SharedPrompt>} page @param {number} offset */
  draw({ items, total }, offset) {
    this.count.textContent = total ? `${integer(total)} shared` : "";
    this.pager.hidden = total <= PAGE;
    if (!total) {
      return empty(
        this.body,
        "No prompts in common",
        "These runs stored no rollouts of the same prompt. Runs on the same data with the same evaluation do.",
      );
    }
    const heads = [
      h("th", { scope: "col", text: "Prompt" }),
      ...this.runs.map((_, index) => h("th", { scope: "col" }, swatch(index))),
    ];
    fill(
      this.body,
      h(
        "table",
        { class: "table cmp-prompts", "aria-label": "Shared prompts" },
        h("thead", {}, h("tr", {}, heads)),
        h(
          "tbody",
          {},
          items.map((item) => this.row(item)),
        ),
      ),
    );
    fill(
      this.pager,
      h("span", {
        class: "muted num",
        text: `${integer(offset + 1)}–${integer(Math.min(total, offset + PAGE))} of ${integer(total)}`,
      }),
      h("span", { class: "spacer" }),
      button("Previous", () => this.load(Math.max(0, offset - PAGE)), {
        class: "btn small",
        disabled: offset === 0,
      }),
      button("Next", () => this.load(offset + PAGE), {
        class: "btn small",
        disabled: offset + PAGE >= total,
      }),
    );
  }

  /** @param {SharedPrompt} item */
  row(item) {
    const first = item.rollouts[this.runs[0]];
    const cells = this.runs.map((run, index) => {
      const rollout = item.rollouts[run];
      if (!rollout) return h("td", { class: "muted", text: "–" });
      const facts = [
        verdict(rollout),
        rollout.kl_mean === null ? "" : `KL ${nats(rollout.kl_mean)}`,
        `step ${integer(rollout.step)}`,
      ];
      const beside = index > 0 && first ? { id: first.id, with: rollout.id } : { id: rollout.id };
      const title =
        index > 0 && first ? `Side by side with ${letterOf(0)}, token by token` : "Token by token";
      return h(
        "td",
        { "data-beside": rollout.id },
        link(facts.filter(Boolean).join(" · "), page("rollout", beside), { title }),
      );
    });
    return h(
      "tr",
      {},
      h("td", { class: "cmp-prompt", title: plain(item.prompt), text: glyphs(plain(item.prompt, 160)) }),
      cells,
    );
  }
}
