// Distribution of the advantages; each bar leads to its tokens.
import { h, link } from "../lib/dom.js";
import { integer, number, percent } from "../lib/format.js";
import { asTable, InsightPanel } from "./panel.js";

/** @type {Record<string, string>} */
const MEANS = {
  advantages:
    "As trained, in the objective’s unit. Above 0 the token’s probability was pushed up, below 0 down.",
  log_ratio:
    "No advantages are stored; shown is −(log p(student) − log p(teacher)) of the sampled token, nats. Below 0 the teacher gives it less probability.",
  mixed: "As trained; where none is stored, −(log p(student) − log p(teacher)) of the sampled token, nats.",
  none: "",
};

export class Histogram extends InsightPanel {
  /** @param {Insights} insights */
  constructor(insights) {
    super(insights, "advantages", "Advantages", "tokens");
  }

  /** @param {AdvantagesInsight} advantagesInsight */
  draw({ edges, counts, advantage_quantity: quantity, measured, mean, top }) {
    if (!counts.length)
      return this.none(
        "No advantages",
        "Neither advantages nor both log-probabilities are stored for these tokens.",
      );
    this.unit.textContent =
      quantity === "log_ratio"
        ? "teacher − student log-probability, tokens (log scale)"
        : "tokens (log scale)";
    const most = Math.max(...counts);
    /** @param {number} i */
    const hrefOf = (i) => this.tokens({ min_advantage: edges[i], max_advantage: edges[i + 1] });
    const bars = counts.map((count, i) =>
      bar(count, most, {
        href: hrefOf(i),
        label: `${range(edges, i)}: ${integer(count)} tokens`,
        sign: (edges[i + 1] ?? 1) <= 0 ? "minus" : "plus",
        bin: i,
      }),
    );
    const plot = h("div", { class: "bars", role: "group", "aria-label": "Histogram of advantages" }, bars);
    rove(plot);
    const rows = () =>
      counts
        .map((count, i) => [link(range(edges, i), hrefOf(i)), integer(count)])
        .filter((_, i) => counts[i] > 0);
    this.show(
      MEANS[quantity],
      plot,
      h(
        "div",
        { class: "bars-axis num muted" },
        h("span", { text: number(edges[1]) }),
        h("span", { text: "0" }),
        h("span", { text: number(edges.at(-2)) }),
      ),
      this.facts({ measured, mean, top }),
      asTable(
        "Histogram of advantages",
        [
          ["Advantage", ""],
          ["Tokens", "r"],
        ],
        rows,
      ),
    );
  }

  /** @param {Pick<AdvantagesInsight, "measured" | "mean" | "top">} figures */
  facts({ measured, mean, top }) {
    /** @param {string} name @param {string} value */
    const fact = (name, value) =>
      h("div", {}, h("dt", { text: name }), h("dd", { class: "num", text: value }));
    return h(
      "dl",
      { class: "figures insight-facts" },
      fact("Tokens", integer(measured)),
      fact("Mean", number(mean)),
      fact(`Top ${percent(top.share)}: share of Σ|advantage|`, percent(top.advantage, 1)),
      fact(`Top ${percent(top.share)}: share of the KL`, percent(top.kl, 1)),
    );
  }
}

/**
 * @param {number} count
 * @param {number} most
 * @param {{href: string, label: string, sign: string, bin: number}} options
 */
function bar(count, most, { href, label, sign, bin }) {
  const height = count ? `${Math.max(2, (Math.log1p(count) / Math.log1p(most)) * 100)}%` : "0";
  const fillBar = h("span", { class: `bar-fill ${sign}`, style: { height } });
  if (!count) return h("span", { class: "bar" });
  return h(
    "a",
    { class: "bar", href, title: label, "aria-label": label, tabindex: "-1", "data-bin": bin },
    fillBar,
  );
}

/** One tab stop; the arrow keys move among the bars. @param {HTMLElement} plot */
function rove(plot) {
  const links = [...plot.querySelectorAll("a")];
  links[0]?.setAttribute("tabindex", "0");
  plot.addEventListener("keydown", (event) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    const next = step && links[links.indexOf(/** @type {HTMLAnchorElement} */ (event.target)) + step];
    if (!next) return;
    event.preventDefault();
    for (const other of links) other.setAttribute("tabindex", other === next ? "0" : "-1");
    next.focus();
  });
}

/** @param {(number | null)[]} edges @param {number} i */
function range(edges, i) {
  if (edges[i] === null && edges[i + 1] === null) return "all";
  if (edges[i] === null) return `below ${number(edges[i + 1])}`;
  if (edges[i + 1] === null) return `${number(edges[i])} or more`;
  return `${number(edges[i])} to ${number(edges[i + 1])}`;
}
