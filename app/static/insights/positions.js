// Mean KL by position in the completion and step.
import { h, link } from "../lib/dom.js";
import { integer, nats, number } from "../lib/format.js";
import { CellGrid, scaleStrip } from "./grid.js";
import { asTable, InsightPanel, span } from "./panel.js";

const LABELS = 8;

export class Positions extends InsightPanel {
  /** @param {Insights} insights */
  constructor(insights) {
    super(insights, "positions", "KL by position and step", "mean, nats per token");
  }

  /** @param {PositionsInsight} positionsInsight */
  draw({ steps, positions, tokens, kl }) {
    if (!positions.length)
      return this.none(
        "No scored tokens",
        "No selected token counts in the loss and was scored by the teacher.",
      );
    const top = Math.max(...kl.flat().filter((v) => v !== null)) || 1;
    /** @param {number} r @param {number} c */
    const cell = (r, c) =>
      tokens[r][c] && {
        value: kl[r][c],
        href: this.tokens(cellOf(steps[c], positions[r])),
        label: `Steps ${span(steps[c])}, positions ${span(positions[r])}: ${number(kl[r][c])} nats over ${integer(tokens[r][c])} tokens`,
      };
    const cells = positions.map((_, r) => steps.map((_, c) => cell(r, c) || null));
    const grid = new CellGrid({
      label: "Mean KL by position and step",
      cells,
      top,
      down: "position in the completion",
      across: "step",
      rows: sparse(positions.map((p) => p[0])),
      columns: sparse(steps.map((s) => s[0])),
    });
    const rows = () =>
      cells.flatMap((line, r) =>
        line.flatMap((c, k) =>
          c
            ? [[link(span(steps[k]), c.href), span(positions[r]), integer(tokens[r][k]), nats(kl[r][k])]]
            : [],
        ),
      );
    this.show(
      "",
      grid.element,
      h("div", { class: "row insight-legend" }, scaleStrip(`${number(top)} nats`)),
      asTable(
        "Mean KL by position and step",
        [
          ["Steps", ""],
          ["Positions", ""],
          ["Tokens", "r"],
          ["Mean KL, nats", "r"],
        ],
        rows,
      ),
    );
  }
}

/** @param {Bin} bin @param {Bin} bin2 */
function cellOf([min_step, max_step], [min_position, max_position]) {
  return { min_step, max_step, min_position, max_position };
}

/**
 * Labels for some of the bins, "" for the rest.
 * @template V @param {V[]} values @param {(value: V) => string} [format]
 */
export function sparse(values, format = String, labels = LABELS) {
  const every = Math.max(1, Math.ceil(values.length / labels));
  return values.map((value, i) => (i % every ? "" : format(value)));
}
