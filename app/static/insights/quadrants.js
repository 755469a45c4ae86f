// The student's entropy against the KL: where it was unsure, and where it was confident and wrong.
import { get } from "../lib/api.js";
import { debounce, fill, h, link } from "../lib/dom.js";
import { integer, nats, number, percent } from "../lib/format.js";
import { failed } from "../lib/panel_states.js";
import { asRequest, tokenRow } from "../rollouts/worst.js";
import { CellGrid, scaleStrip } from "./grid.js";
import { InsightPanel, table } from "./panel.js";
import { sparse } from "./positions.js";

const LISTED = 6;
const NAMES = [
  ["sure, in agreement", "confidently wrong"],
  ["unsure, in agreement", "unsure"],
];

export class Quadrants extends InsightPanel {
  /** @type {Partial<Record<keyof Bounds, HTMLInputElement>>} */
  inputs;
  /** @type {object} */
  listing;

  /** @param {Insights} insights */
  constructor(insights) {
    super(insights, "quadrants", "Unsure or confidently wrong", "student’s entropy × KL, nats");
    /** @type {Query} */
    this.thresholds = {};
    this.list = h("div", { class: "brush-list", "aria-live": "polite" });
    /** @type {Query} */
    this.region = {};
  }

  get more() {
    return this.thresholds;
  }

  /** @param {QuadrantsInsight} answer */
  draw(answer) {
    const { grid, without } = answer;
    if (!grid.flat().some(Boolean))
      return this.none("No entropies", "No selected record holds the student’s entropy.");
    const top = Math.max(...grid.flat());
    this.show(
      without ? `${integer(without)} tokens without an entropy are skipped.` : "",
      this.table(answer),
      this.grid(answer, top),
      h("div", { class: "row insight-legend" }, scaleStrip(`${integer(top)} tokens, log scale`)),
      this.bounds(),
      this.list,
    );
    if (Object.keys(this.region).length) this.listRegion();
    else
      fill(
        this.list,
        h("p", {
          class: "caption",
          text: "Drag over a region, or use Shift and the arrow keys, to list its tokens.",
        }),
      );
  }

  /** @param {QuadrantsInsight} quadrantsInsight */
  table({ quadrants }) {
    const rows = [...quadrants].reverse().map((q) => [
      link(NAMES[Number(q.unsure)][Number(q.disagree)], this.tokens(boundsOf(q)), {
        "data-quadrant": `${q.unsure}-${q.disagree}`,
      }),
      integer(q.tokens),
      percent(q.token_share, 1),
      nats(q.kl_mean),
      percent(q.kl_share, 1),
    ]);
    return table(
      "Quadrants",
      [
        ["Quadrant", ""],
        ["Tokens", "r"],
        ["Share", "r"],
        ["Mean KL", "r"],
        ["KL share", "r"],
      ],
      rows,
    );
  }

  /** @param {QuadrantsInsight} quadrantsInsight @param {number} top */
  grid({ grid, kl, entropy_edges: x, heat_edges: y }, top) {
    const size = grid.length;
    /** @param {number} i @param {number} j */
    const label = (i, j) =>
      `Entropy ${range(x, i)}, KL ${range(y, j)} nats: ${integer(grid[i][j])} tokens, ${number(kl[i][j])} nats in total`;
    const cells = Array.from({ length: size }, (_, row) =>
      Array.from({ length: size }, (_, i) => {
        const j = size - 1 - row;
        return grid[i][j] ? { value: grid[i][j], label: label(i, j) } : null;
      }),
    );
    /** @param {number} r0 @param {number} c0 @param {number} r1 @param {number} c1 */
    const brush = (r0, c0, r1, c1) => {
      this.choose({
        min_entropy: x[c0],
        max_entropy: x[c1 + 1],
        min_heat: y[size - 1 - r1],
        max_heat: y[size - r0],
      });
    };
    /** @param {(number | null)[]} edges */
    const ends = (edges) => sparse(edges.slice(0, size), (v) => number(Math.max(0, v ?? 0), 2), 6);
    const rows = ends(y).reverse();
    return new CellGrid({
      label: "Tokens by entropy and KL",
      down: "KL, nats",
      across: "student’s entropy, nats",
      cells,
      top,
      rows,
      log: true,
      columns: ends(x),
      brush,
    }).element;
  }

  /** @param {string} name @param {string} label @param {string} shown */
  threshold(name, label, shown) {
    const input = h("input", {
      class: "field num narrow",
      type: "number",
      min: "0.001",
      max: "1000",
      step: "any",
      value: this.answer.thresholds[name],
      "aria-label": `${label}, nats`,
      oninput: debounce(500, () => {
        if (!input.value || !input.validity.valid) return;
        this.thresholds = { ...this.thresholds, [name]: input.value };
        this.refresh();
      }),
    });
    return h("label", { class: "control muted" }, shown, input);
  }

  /** The region by numbers: the brush for those who do not drag. */
  bounds() {
    this.inputs = {};
    /** @param {keyof Bounds} name @param {string} label */
    const field = (name, label) => {
      const input = h("input", {
        class: "field num small-field",
        type: "number",
        step: "any",
        "aria-label": label,
        placeholder: label,
        value: this.region[name] ?? "",
      });
      const changed = () => this.choose({ ...this.region, [name]: input.value }, false);
      input.addEventListener("input", debounce(400, changed));
      this.inputs[name] = input;
      return input;
    };
    return h(
      "div",
      { class: "insight-bounds" },
      h("span", { class: "muted", text: "Quadrants, nats" }),
      h(
        "div",
        { class: "row" },
        this.threshold("entropy", "Unsure from", "entropy from"),
        this.threshold("heat", "Disagreement from", "KL from"),
      ),
      h("span", { class: "muted", text: "Region, nats" }),
      h(
        "div",
        { class: "row" },
        field("min_entropy", "Entropy ≥"),
        field("max_entropy", "Entropy <"),
        field("min_heat", "KL ≥"),
        field("max_heat", "KL <"),
      ),
    );
  }

  /** @param {Query} region */
  choose(region, write = true) {
    this.region = Object.fromEntries(Object.entries(region).filter(([, v]) => v !== null && v !== ""));
    if (write)
      for (const [name, input] of Object.entries(this.inputs))
        input.value =
          this.region[name] === undefined ? "" : String(Number(Number(this.region[name]).toPrecision(6)));
    return this.listRegion();
  }

  async listRegion() {
    const turn = {};
    this.listing = turn;
    const filter = { ...this.insights.where, ...this.region };
    try {
      /** @type {HotTokens} */
      const { items, total } = await get(`runs/${this.insights.run}/hot-tokens`, {
        ...asRequest(filter),
        limit: LISTED,
      });
      if (turn !== this.listing) return;
      const top = Math.max(...items.map((i) => i.heat));
      fill(
        this.list,
        h(
          "p",
          { class: "row" },
          h("span", { class: "num", "data-total": total, text: `${integer(total)} tokens in the region` }),
          h("span", { class: "spacer" }),
          total > 0 && link("Open the list", this.tokens(this.region)),
        ),
        items.map((item) => tokenRow(item, top)),
      );
    } catch (error) {
      if (turn === this.listing) failed(this.list, error, () => this.listRegion());
    }
  }
}

/** @param {Bounds} bounds */
function boundsOf({ min_entropy, max_entropy, min_heat, max_heat }) {
  return { min_entropy, max_entropy, min_heat, max_heat };
}

/** @param {(number | null)[]} edges @param {number} i */
function range(edges, i) {
  const low = Math.max(0, edges[i] ?? 0);
  return edges[i + 1] === null ? `from ${number(low)}` : `${number(low)}–${number(edges[i + 1])}`;
}
