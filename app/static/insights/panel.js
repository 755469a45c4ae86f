// What the panels of the run's aggregates share: a title, a caption, three faces, and a table.
import { get } from "../lib/api.js";
import { fill, h } from "../lib/dom.js";
import { empty, failed, loading } from "../lib/panel_states.js";
import { tokensPage } from "../rollouts/worst.js";

export class InsightPanel {
  /** @type {string} */
  print;
  /** @type {any} */
  answer;

  /**
   * `name` is the aggregate's name in its address.
   * @param {Insights} insights @param {string} name @param {string} title @param {string} unit
   */
  constructor(insights, name, title, unit) {
    this.insights = insights;
    this.name = name;
    this.caption = h("p", { class: "caption insight-caption" });
    this.body = h("div", { class: "insight-body" });
    this.unit = h("span", { class: "muted", text: unit });
    this.element = h(
      "section",
      { class: "panel insight", "data-insight": name, "aria-label": title },
      h("header", {}, h("h3", { text: title }), this.unit),
      this.body,
      this.caption,
    );
    loading(this.body, title.toLowerCase());
  }

  /** Draws an answer of the route. @param {any} _answer */
  draw(_answer) {}

  /** Parameters of the request beside the selection. @returns {Query} */
  get more() {
    return {};
  }

  async refresh() {
    const { run, where } = this.insights;
    try {
      const answer = await get(`runs/${run}/insights/${this.name}`, { ...where, ...this.more });
      const print = JSON.stringify([answer, where]);
      if (print !== this.print) {
        this.print = print;
        this.answer = answer;
        this.draw(answer);
        this.element.dataset.ready = "true";
      }
      return answer;
    } catch (error) {
      this.print = "";
      failed(this.body, error, () => this.refresh());
      return null;
    }
  }

  /** The page that lists the tokens of a cell. @param {Query} filter */
  tokens(filter) {
    return tokensPage(this.insights.run, { ...this.insights.where, ...filter });
  }

  /** @param {string} title @param {string} why */
  none(title, why) {
    empty(this.body, title, why);
    this.caption.textContent = "";
  }

  /** @param {string} caption @param {...Child} children */
  show(caption, ...children) {
    fill(this.body, children);
    this.caption.textContent = caption;
  }
}

/**
 * The same figures as a table, built when it is opened; a cell may be a node.
 * @param {string} label @param {InsightColumn[]} head @param {() => Child[][]} rowsOf
 */
export function asTable(label, head, rowsOf) {
  const holder = h("div", {
    class: "scroll-x insight-table",
    tabindex: "0",
    role: "region",
    "aria-label": label,
  });
  const details = h(
    "details",
    {
      class: "as-table",
      ontoggle: () => details.open && !holder.firstChild && holder.append(table(label, head, rowsOf())),
    },
    h("summary", { text: "As a table" }),
    holder,
  );
  return details;
}

/** @param {string} label @param {InsightColumn[]} head @param {Child[][]} rows */
export function table(label, head, rows) {
  /** @param {Child[]} row */
  const cells = (row) => row.map((cell, i) => h("td", { class: head[i][1] }, cell));
  return h(
    "table",
    { class: "table", "aria-label": label },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        head.map(([text, kind]) => h("th", { scope: "col", class: kind, text })),
      ),
    ),
    h(
      "tbody",
      {},
      rows.map((row) => h("tr", {}, cells(row))),
    ),
  );
}

/** "3" or "3–5". @param {Bin} bin */
export function span([first, last]) {
  return first === last ? `${first}` : `${first}–${last}`;
}
