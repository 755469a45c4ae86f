// One reply: its tokens tinted by reverse KL, the figures of the token that is looked at, and its sums.
import { page } from "../lib/api.js";
import { button, h, link } from "../lib/dom.js";
import { fixed, sum } from "../lib/format.js";
import { ModelRequest } from "../lib/model_request.js";
import { cellsOf } from "../rollout/text/glyphs.js";
import { sentenceOf, TintedTokens } from "../rollout/text/tinted.js";

/** @type {Record<Speaker, string>} */
const NAMES = { student: "Student", teacher: "Teacher" };

export class ReplyView {
  /**
   * `problem(text)` is called where the reply could not be saved.
   * @param {Reply} reply @param {(text: string) => unknown} problem
   */
  constructor(reply, problem) {
    const name = NAMES[reply.author];
    this.reply = reply;
    this.problem = problem;
    this.detail = h("p", { class: "muted pg-detail" });
    this.figures = h("p", { class: "muted num pg-figures" });
    this.save = button("Save", () => this.keep(), {
      class: "btn small",
      hidden: true,
      title: "Saves the reply as a rollout of the run",
    });
    this.tinted = new TintedTokens(`${name}’s reply`, (/** @type {number} */ at) => {
      this.detail.textContent = at < 0 || at >= this.reply.ids.length ? "" : this.sentence(at);
    });
    this.element = h(
      "section",
      { class: "pg-reply", "data-author": reply.author, "aria-label": name },
      h("header", {}, h("strong", { text: name }), h("span", { class: "spacer" }), this.save),
      this.tinted.element,
      this.detail,
      this.figures,
    );
  }

  /** Shows the reply as it is now. @param {Reply} reply @param {number} top @param {boolean} ofRun */
  update(reply, top, ofRun) {
    this.reply = reply;
    this.tinted.draw(this.cells(), reply.reverse_kl, top);
    this.tinted.element.dataset.tokens = String(reply.ids.length);
    this.figures.textContent = summary(reply);
    this.save.hidden = !(ofRun && reply.request && reply.finish_reason);
  }

  cells() {
    return cellsOf(this.reply.ids, this.reply.texts);
  }

  /** @param {number} at */
  sentence(at) {
    const { reply } = this;
    const top = reply.wanted[at];
    const best = top && {
      text: reply.texts[top[0]]?.t ?? `⟨${top[0]}⟩`,
      p: top[1],
      q: top[2],
      same: top[0] === reply.ids[at],
    };
    return sentenceOf(this.cells()[at].raw, {
      p: reply.student_logprobs[at],
      q: reply.teacher_logprobs[at],
      kl: reply.reverse_kl[at],
      best,
      author: reply.author,
    });
  }

  /** Stores the reply as a rollout. */
  keep() {
    const { save, reply } = this;
    save.disabled = true;
    save.textContent = "Saving …";
    const request = new ModelRequest({
      change: () => {},
      done: (answer) => save.replaceWith(link("Saved: open", page("rollout", { id: answer.rollout }))),
      failed: (error) => {
        save.disabled = false;
        save.textContent = "Save";
        this.problem(`Not saved: ${error.message}`);
      },
    });
    request.ask(`chat/${reply.request}/keep`, { reply: reply.index });
  }
}

/** @param {Reply} reply */
function summary(reply) {
  if (reply.bare) return "Restored from the address, which holds no scores.";
  const scored = reply.reverse_kl.filter((value) => value !== null);
  const total = scored.reduce((a, b) => a + b, 0);
  const kl = scored.length
    ? `, KL ${sum(total)} nats, ${fixed(total / scored.length)} per token`
    : ", not scored: no teacher";
  const end = { stop: "finished", length: "truncated", none: "generating" }[reply.finish_reason ?? "none"];
  return `${reply.ids.length} tokens, ${end}${kl}`;
}
