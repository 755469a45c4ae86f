// The tour's five steps: a headline, a sentence or two, and a live part of the product.
import { page } from "../lib/api.js";
import { Chart } from "../lib/charts.js";
import { copyButton, fill, h, link } from "../lib/dom.js";
import {
  bytes,
  duration,
  integer,
  isLive,
  leaning,
  number,
  percent,
  plain,
  probability,
  short,
  verdict,
  withUnit,
} from "../lib/format.js";
import { classOf, LEVELS } from "../lib/palette.js";
import { bounded, glyphs } from "../rollout/text/glyphs.js";
import { beliefOf, headlineOf, learntOf, outcomeOf, spentOf, wayOf } from "./outcome.js";

const GREATEST = 4; // nats at which a token is fully tinted

export class Step {
  /** @type {string} */
  print;

  /** @param {string} short @param {string} headline */
  constructor(short, headline) {
    this.short = short;
    this.headline = h("h1", { text: headline });
    this.text = h("p", { class: "tour-text" });
    this.piece = h("div", { class: "tour-piece" });
    this.element = h("div", { class: "tour-step" }, this.headline, this.text, this.piece);
  }

  /** @param {...Child} parts */
  say(...parts) {
    fill(this.text, parts);
  }

  /** What the figures say, in place of what was said before they were known. @param {string} text */
  head(text) {
    this.headline.textContent = text;
  }

  /** Shows what the story has for this step. @param {Story} _story */
  show(_story) {}

  /**
   * Draws the piece only where it has changed: a chart keeps its zoom, a link its focus.
   * @param {string} print @param {...Child} children
   */
  put(print, ...children) {
    if (print === this.print) return;
    this.print = print;
    fill(this.piece, children);
  }

  /** @param {string} what @param {Run} run */
  notYet(what, run) {
    const ended = !isLive(run.status);
    const when = ended
      ? `This run is ${run.status} without one; start another demo run to see it.`
      : `${run.phase ? `Now: ${plain(run.phase, 100)}. ` : ""}It appears here automatically.`;
    this.put(
      what + when,
      h(
        "div",
        { class: "face", role: "status" },
        h("strong", { text: `${what} is not available yet` }),
        h("p", { text: when }),
      ),
    );
  }
}

class Mistakes extends Step {
  constructor() {
    super("Mistakes", "The student makes mistakes");
  }

  /** @param {Story} story */
  show({ run, scores, wrong, wrongTokens }) {
    const first = scores[0];
    this.say(
      ...(first
        ? [
            "Before training, the student solves ",
            figure("start", percent(first.value)),
            ` of ${integer(first.n)} held-out problems.`,
          ]
        : [
            isLive(run.status)
              ? "The student has not been evaluated yet."
              : "This run has no evaluation of its start.",
          ]),
      " Its habits: it skips steps, forgets to carry, and guesses.",
    );
    if (!wrong || !wrongTokens) return this.notYet("The first wrong answer", run);
    this.put(wrong.id, answer(wrong, wrongTokens, { tinted: false }));
  }
}

class Judgement extends Step {
  constructor() {
    super("Judgement", "The coach judges every token");
  }

  /** @param {Story} story */
  show({ run, wrong, wrongTokens, token }) {
    this.say(
      "The coach reads what the student wrote and says at each token what it would have written. The stronger the colour, the more it disagrees: no reward for the whole answer, but one judgement per token.",
    );
    if (!wrong || !wrongTokens || !token) return this.notYet("A judged answer", run);
    const open = page("rollout", { id: wrong.id, pos: token.position });
    this.put(
      `${wrong.id} ${token.position}`,
      answer(wrong, wrongTokens, { tinted: true, mark: token.position }),
      h("p", { class: "tour-say", id: "tour-say", text: sentence(token) }),
      h(
        "p",
        {},
        link("Open this token", open, { class: "btn tour-btn", id: "tour-token" }),
        h("span", { class: "muted", text: ` reverse KL ${number(token.kl)} nats` }),
      ),
    );
  }
}

class Training extends Step {
  constructor() {
    super("Training", "Training closes the gap");
    this.kl = new Chart("Reverse KL", "nats per token");
    this.score = new Chart("Score", "pass@1, ± standard error");
    this.charts = h("div", { class: "tour-charts" }, this.kl.element, this.score.element);
  }

  /** @param {Story} story */
  show({ run, steps, scores }) {
    const kl = (steps.reverse_kl ?? []).filter((value) => value !== null);
    if (!kl.length) {
      this.say(
        "At each step the student writes new answers, the coach judges every token, and the student moves towards the coach.",
      );
      return this.notYet("The first step", run);
    }
    this.head(headlineOf(scores, run));
    const last = /** @type {number} */ (kl.at(-1));
    const way = wayOf(/** @type {number} */ (kl[0]), last);
    const path =
      way === "stayed at"
        ? [kl.length > 1 ? "KL stayed at " : "KL of the first step: "]
        : [`KL ${way} `, figure("kl-start", number(kl[0])), " to "];
    this.say(
      "At each step the student writes new answers, the coach judges them, and the student is updated towards the coach. ",
      path,
      figure("kl", number(last)),
      " nats per token",
      ...scoreText(scores, run),
      beliefOf(scores) && ` ${beliefOf(scores)}`,
    );
    this.put("charts", this.charts);
    const large = { height: 300, ticks: 16 };
    this.kl.draw(
      [{ name: "reverse KL", x: /** @type {number[]} */ (steps.step), y: steps.reverse_kl }],
      large,
    );
    const line = {
      name: "score",
      x: scores.map((s) => s.step),
      y: scores.map((s) => s.value),
      error_y: scores.map((s) => s.standard_error),
    };
    this.score.draw([line], { ...large, yaxis: { range: [0, 1.02], tickformat: ".0%" } });
  }
}

/** The end of the sentence: from which score to which. @param {Evaluation[]} scores @param {Run} run @returns {Child[]} */
function scoreText(scores, run) {
  const outcome = outcomeOf(scores);
  if (outcome === "none") return [isLive(run.status) ? "; no score yet." : "; this run has no score."];
  const start = figure("score-start", percent(scores[0].value));
  if (outcome === "first") return ["; score at the start: ", start, "."];
  return ["; score: ", start, " → ", figure("score", percent(scores.at(-1)?.value)), "."];
}

class Afterwards extends Step {
  constructor() {
    super("After training", "The same problem, after training");
  }

  /** @param {Story} story */
  show({ run, scores, wrong, after, wrongTokens, afterTokens }) {
    this.head(after && !isLive(run.status) ? "The same problem, after training" : "The same problem, later");
    this.say(
      after ? learntOf(scores) : "The student reads the same problems again at every evaluation of the run.",
    );
    if (!wrong || !wrongTokens) return this.notYet("The first wrong answer", run);
    if (!after || !afterTokens) {
      this.notYet("A right answer to the same problem", run);
      return;
    }
    this.put(
      `${wrong.id} ${after.id}`,
      h("p", { class: "tour-prompt", text: glyphs(plain(wrongTokens.meta.prompt, 600)) }),
      h("div", { class: "tour-pair" }, side("Before", wrong, wrongTokens), side("After", after, afterTokens)),
      h(
        "p",
        {},
        link("Both, token by token", page("rollout", { id: wrong.id, with: after.id }), {
          class: "btn tour-btn",
        }),
        h("span", {
          class: "muted",
          text: wrongTokens.meta.answer ? ` Correct answer: ${plain(wrongTokens.meta.answer, 40)}.` : "",
        }),
      ),
    );
  }
}

class Cost extends Step {
  constructor() {
    super("Cost", "What it cost, and what comes next");
  }

  /** @param {Story} story */
  show({ run }) {
    this.say(
      spentOf(run),
      figure("seconds", duration(run.seconds)),
      " on this machine. The same works with your own models and prompts.",
    );
    const facts = [
      ["Steps", "steps", `${integer(run.step)} of ${integer(run.steps)}`],
      ["Tokens generated", "tokens", short(run.tokens)],
      ["Compute", "flops", withUnit(run.flops, "FLOP")],
      ["Disk space", "disk", bytes((run.bytes ?? 0) + (run.disk?.files ?? 0))],
    ];
    const commands = ["opd train my.yaml", `opd save ${run.id} --out my-student`];
    this.put(
      JSON.stringify(facts),
      h(
        "dl",
        { class: "tour-facts" },
        facts.map(([name, key, value]) =>
          h("div", {}, h("dt", { text: name }), h("dd", { class: "num", "data-figure": key, text: value })),
        ),
      ),
      h(
        "div",
        { class: "tour-next" },
        link("Set up your own run", "new", { class: "btn strong tour-btn" }),
        link("Browse all rollouts", page("rollouts", { run: run.id }), { class: "btn tour-btn" }),
      ),
      commands.map((text) =>
        h(
          "p",
          { class: "tour-command" },
          h("code", { text }),
          copyButton("Copy", () => text),
        ),
      ),
    );
  }
}

export const STEPS = [Mistakes, Judgement, Training, Afterwards, Cost];

/** @param {string} name @param {string} text */
function figure(name, text) {
  return h("strong", { class: "num", "data-figure": name, text });
}

/**
 * A problem and the student's answer.
 * @param {RolloutItem} rollout @param {Rollout} tokens @param {{tinted: boolean, mark?: number}} options
 */
function answer(rollout, tokens, options) {
  return h(
    "div",
    { class: "tour-answer", "data-rollout": rollout.id },
    h("p", { class: "tour-prompt", text: glyphs(plain(tokens.meta.prompt, 600)) }),
    completion(tokens, options),
    h("p", {
      class: "muted",
      text: `${verdict(rollout)}${tokens.meta.answer ? `, correct answer ${plain(tokens.meta.answer, 40)}` : ""} · step ${integer(rollout.step)}`,
    }),
  );
}

/** @param {string} title @param {RolloutItem} rollout @param {Rollout} tokens */
function side(title, rollout, tokens) {
  return h(
    "section",
    { class: "panel", "data-rollout": rollout.id },
    h(
      "header",
      {},
      h("h2", { text: `${title}, step ${integer(rollout.step)}` }),
      h("span", { class: `tag ${rollout.right ? "good" : "bad"}`, text: verdict(rollout) }),
    ),
    completion(tokens, { tinted: true }),
    h("p", { class: "muted tour-sum", text: `KL ${number(rollout.kl_mean)} nats per token` }),
  );
}

/**
 * The completion's tokens, tinted by their reverse KL: the square root, so that mild ones show.
 * @param {Rollout} tokens @param {{tinted: boolean, mark?: number}} options
 */
function completion(tokens, { tinted, mark = -1 }) {
  const kl = tokens.columns.reverse_kl;
  const most = 400;
  const cells = tokens.cells.slice(0, most).map((cell, at) => {
    const share = tinted && kl ? Math.sqrt(Math.min(1, Math.max(0, kl[at]) / GREATEST)) : 0;
    const tint = classOf(Math.round(share * LEVELS), 0);
    const title = tinted && kl ? `reverse KL ${number(kl[at])} nats` : null;
    return h("span", {
      class: [tint, at === mark ? "tour-worst" : ""].filter(Boolean).join(" "),
      title,
      text: cell.kind.startsWith("space")
        ? cell.lines.join("\n").replaceAll("·", " ")
        : cell.lines.join("\n"),
    });
  });
  return h("p", { class: "tour-tokens mono" }, cells, tokens.cells.length > most ? " …" : "");
}

/** @param {StoryToken} token */
function sentence(token) {
  const wrote = quote(token.wrote);
  if (!token.wanted || token.wanted.id === token.id)
    return `The student wrote ${wrote} (${probability(token.student)}, coach ${probability(token.teacher)}).`;
  return `Coach ${leaning(token.wanted.teacher_logprob)} ${quote(token.wanted.text)} (${probability(Math.exp(token.wanted.teacher_logprob ?? 0))}); the student wrote ${wrote} (${probability(token.student)}, coach ${probability(token.teacher)}).`;
}

/** @param {string} text */
function quote(text) {
  return `“${bounded(text)}”`;
}
