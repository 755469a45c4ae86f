// Where the KL is: by token class, by token, and by right and wrong answers.
import { page } from "../lib/api.js";
import { h, link } from "../lib/dom.js";
import { integer, nats, percent } from "../lib/format.js";
import { bounded } from "../rollout/text/glyphs.js";
import { InsightPanel, table } from "./panel.js";

/** @type {Record<string, string>} */
const CLASSES = {
  word: "words",
  number: "numbers",
  operator: "operators, punctuation",
  whitespace: "whitespace",
  special: "special tokens",
  thinking: "thinking tags",
  other: "other: emoji, parts of characters",
};
/** @type {Record<string, string>} */
const GRADES = { right: "right", wrong: "wrong", ungraded: "not graded" };
/** @type {InsightColumn[]} */
const SHARES = [
  ["Tokens", "r"],
  ["Share", "r"],
  ["Mean KL", "r"],
  ["KL share", "r share"],
];

/** The cells of SHARES. @param {KlShare} item */
function shares(item) {
  const width = `${(item.kl_share ?? 0) * 100}%`;
  return [
    integer(item.tokens),
    percent(item.token_share, 1),
    nats(item.kl_mean),
    h(
      "span",
      { class: "bar-cell" },
      h("span", { style: { width } }),
      h("span", { text: percent(item.kl_share, 1) }),
    ),
  ];
}

export class Classes extends InsightPanel {
  /** @param {Insights} insights */
  constructor(insights) {
    super(insights, "tokens", "KL by token class", "nats per token");
    this.element.dataset.part = "classes";
  }

  /** @param {TokensInsight} tokensInsight */
  draw({ classes }) {
    const rows = classes
      .filter((c) => c.tokens)
      .map((c) => [
        link(CLASSES[c.class], this.tokens({ class: c.class }), { "data-class": c.class }),
        ...shares(c),
      ]);
    if (!rows.length)
      return this.none(
        "No scored tokens",
        "No selected token counts in the loss and was scored by the teacher.",
      );
    this.show("", table("KL by token class", [["Class", ""], ...SHARES], rows));
  }
}

export class Strings extends InsightPanel {
  /** @param {Insights} insights */
  constructor(insights) {
    super(insights, "tokens", "KL by token", "nats per token");
    this.element.dataset.part = "strings";
  }

  /** @param {TokensInsight} tokensInsight */
  draw({ strings, distinct }) {
    if (!strings.length) return this.none("No disagreement", "No selected token has a KL above 0.");
    this.unit.textContent =
      strings.length < distinct
        ? `nats per token; the ${strings.length} of ${integer(distinct)} with the most KL`
        : "nats per token";
    const rows = strings.map((s) => [
      link(bounded(s.text), this.tokens({ token_id: s.token_id }), {
        class: "mono token-link",
        "data-token": s.token_id,
        title: `${CLASSES[s.class]}, id ${s.token_id}`,
      }),
      ...shares(s),
    ]);
    this.show(
      "",
      h("div", { class: "insight-scroll" }, table("KL by token", [["Token", ""], ...SHARES], rows)),
    );
  }
}

export class Correctness extends InsightPanel {
  /** @param {Insights} insights */
  constructor(insights) {
    super(insights, "correctness", "Right and wrong answers", "nats per token");
  }

  /** @param {CorrectnessInsight} correctnessInsight */
  draw({ groups, penalised, endorsed }) {
    const present = groups.filter((g) => g.rollouts);
    if (!present.length)
      return this.none("No scored rollouts", "No selected rollout was scored by the teacher.");
    const rows = present.map((g) => [
      g.grade === "ungraded"
        ? GRADES[g.grade]
        : link(GRADES[g.grade], this.rollouts({ correct: String(g.grade === "right") }), {
            "data-grade": g.grade,
          }),
      integer(g.rollouts),
      ...shares(g),
    ]);
    this.show(
      "",
      table("KL of right and wrong answers", [["Answer", ""], ["Rollouts", "r"], ...SHARES], rows),
      present.length === 1 && present[0].grade === "ungraded"
        ? null
        : [
            this.list("Right, high KL", "right answers with the highest mean KL", penalised),
            this.list("Wrong, low KL", "wrong answers with the lowest mean KL", endorsed),
          ],
    );
  }

  /** @param {string} title @param {string} what @param {RolloutItem[]} items */
  list(title, what, items) {
    const rows = items.slice(0, 5).map((item) => [
      link(`step ${item.step} · prompt ${item.group}.${item.sample}`, page("rollout", { id: item.id }), {
        "data-rollout": item.id,
      }),
      integer(item.tokens),
      nats(item.kl_mean),
    ]);
    return h(
      "div",
      { class: "insight-part" },
      h("h4", {}, title, h("span", { class: "muted", text: ` ${what}` })),
      rows.length
        ? table(
            title,
            [
              ["Rollout", ""],
              ["Tokens", "r"],
              ["Mean KL", "r"],
            ],
            rows,
          )
        : h("p", { class: "muted", text: "None." }),
    );
  }

  /** @param {Query} filter */
  rollouts(filter) {
    const { where, run } = this.insights;
    return page("rollouts", { run, sort: "-kl_mean", ...where, ...filter });
  }
}
