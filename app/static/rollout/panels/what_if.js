// Another choice at a token, and how student or coach go on from there.

import { get, page } from "../../lib/api.js";
import { button, fill, h, link, numberField, select } from "../../lib/dom.js";
import { fixed, integer, probability, sum, verdict } from "../../lib/format.js";
import { ModelRequest, modelsLine, progressText, reasonAgainstRequests } from "../../lib/model_request.js";
import { errorBox } from "../../lib/panel_states.js";
import { openRollout } from "../open.js";
import { visible } from "../text/glyphs.js";
import { sentenceOf, Tinted } from "../text/tinted.js";
import { alternativesAt, firstChoice, tableOf } from "./alternatives.js";

const MOST_CHOICES = 12;
const FETCH_AFTER = 60; // ms that the pointer rests on a token
const AUTHORS = [
  ["both", "both"],
  ["student", "student"],
  ["teacher", "coach"],
];
const WORDS = { student: "Student", teacher: "Coach" };

export class WhatIf {
  /** `view` is the rollout page: its rollout, pinned token, pin(), open() and tintBy(). */
  constructor(view) {
    this.view = view;
    this.rollout = null;
    this.position = -1;
    this.run = null;
    this.turn = 0;
    this.head = h("p", { class: "wi-head" });
    this.choices = h("div", { class: "wi-choices" });
    this.form = h("form", { class: "wi-form", onsubmit: (e) => (e.preventDefault(), this.go()) });
    this.status = h("p", { class: "muted wi-status", role: "status", "aria-live": "polite" });
    this.results = h("div", { class: "wi-results", id: "what-if-results" });
    this.earlier = h("div", { class: "wi-earlier", id: "what-if-earlier" });
    this.element = h("section", { class: "what-if", id: "what-if", "aria-label": "What if" });
    this.asking = new ModelRequest({
      change: (found) => this.say(progressText(found)),
      done: (answer) => this.done(answer),
      failed: (error) => this.failed(error),
    });
    this.fields();
  }

  fields() {
    this.typedRadio = h("input", {
      type: "radio",
      name: "wi-choice",
      value: "text",
      "aria-label": "A typed text",
      onchange: () => (this.choose("text"), this.typed.focus()),
    });
    this.typed = h("input", {
      class: "field mono",
      id: "wi-text",
      maxlength: "20000",
      placeholder: "another token or text",
      "aria-label": "Another token or text",
      oninput: () => this.choose("text"),
    });
    this.group = h(
      "div",
      { class: "wi-group", role: "radiogroup", "aria-label": "What stands there instead" },
      this.choices,
      h("div", { class: "wi-choice wi-typed" }, this.typedRadio, this.typed),
    );
    this.authors = select(AUTHORS, "both", () => {}, { id: "wi-authors" });
    this.checkpoint = select([["newest", "newest"]], "newest", () => {}, { id: "wi-checkpoint" });
    this.samples = numberField("wi-samples", "Samples", 1, { min: 1, max: 8 });
    this.temperature = numberField("wi-temperature", "Temperature", 1, {
      min: 0,
      max: 10,
      step: "any",
      title: "0 takes the likeliest token; one sample then, scored at 1",
    });
    this.limit = numberField("wi-limit", "New tokens", 64, { min: 1, max: 2048, title: "at most" });
    this.seed = numberField("wi-seed", "Seed", 0, {
      min: 0,
      max: 2147483647,
      title: "the same question with the same seed gives the same answer",
    });
    this.submit = button("Go on from here", null, { id: "wi-go", class: "btn strong", type: "submit" });
    this.stop = button("Stop", () => this.cancel(), { id: "wi-stop", hidden: true });
    const labelled = (label, element) =>
      h(
        "label",
        { class: "ask-field", for: element.id },
        h("span", { class: "muted", text: label }),
        element,
      );
    fill(
      this.form,
      labelled("Goes on", this.authors),
      labelled("From", this.checkpoint),
      h(
        "div",
        { class: "wi-numbers" },
        this.samples.element,
        this.temperature.element,
        this.limit.element,
        this.seed.element,
      ),
      h("div", { class: "wi-buttons" }, this.submit, this.stop),
    );
  }

  show(rollout) {
    if (this.rollout === rollout) return;
    this.cancel();
    this.rollout = rollout;
    this.position = -1;
    this.temperature.input.value = String(rollout.meta.temperature ?? 1);
    fill(this.results);
    fill(this.earlier);
    this.nothing();
    this.ofRun(rollout);
    this.list(rollout);
  }

  /** The run's checkpoints, and whether this visitor may ask. */
  async ofRun(rollout) {
    try {
      const [run, reason, state] = await Promise.all([
        get(`runs/${rollout.meta.run_id}`),
        reasonAgainstRequests(),
        modelsLine(),
      ]);
      if (rollout !== this.rollout) return;
      this.run = run;
      this.reason =
        run.source === "import" ? "An imported run names no models, so nobody can go on from here." : reason;
      this.offerCheckpoints(run);
      if (!this.asking.busy) fill(this.status, this.reason || state);
      this.submit.disabled = Boolean(this.reason);
    } catch (error) {
      if (rollout === this.rollout)
        fill(
          this.results,
          errorBox(error, () => this.ofRun(rollout)),
        );
    }
  }

  offerCheckpoints(run) {
    const steps = run.checkpoints.map((c) => c.step).reverse();
    const options = steps.map((step, i) => [String(step), i ? `step ${step}` : `step ${step}, newest`]);
    const value = this.checkpoint.value;
    fill(
      this.checkpoint,
      [...options, ["start", "the start"]].map(([key, label]) => h("option", { value: key, text: label })),
    );
    this.checkpoint.value = [...steps.map(String), "start"].includes(value)
      ? value
      : String(steps[0] ?? "start");
  }

  nothing() {
    fill(
      this.element,
      h(
        "div",
        { class: "face" },
        h("strong", { text: "Pin a token first" }),
        h("p", {
          text: "Click a token, or press n for the worst one. Then take another choice there and let student or coach go on.",
        }),
      ),
      this.status,
      this.results,
      this.earlier,
    );
  }

  token(index, pinned) {
    if (!pinned || index < 0) {
      if (this.view.pinned < 0 && this.position >= 0) {
        this.position = -1;
        this.nothing();
      }
      return;
    }
    if (index === this.position) return;
    this.position = index;
    const turn = ++this.turn;
    if (!this.form.isConnected || !this.head.isConnected)
      fill(this.element, this.head, this.group, this.form, this.status, this.results, this.earlier);
    const cell = this.rollout.cells[index];
    fill(
      this.head,
      "Instead of ",
      h("strong", { class: "mono", text: visible(cell.raw) }),
      h("span", { class: "muted", text: ` at position ${integer(index)}` }),
    );
    this.drawChoices(null);
    clearTimeout(this.timer);
    if (this.rollout.meta.top_k) this.timer = setTimeout(() => this.alternatives(index, turn), FETCH_AFTER);
  }

  async alternatives(index, turn) {
    try {
      const found = await alternativesAt(this.rollout, index);
      if (turn === this.turn) this.drawChoices(found);
    } catch (error) {
      if (turn === this.turn) fill(this.choices, h("p", { class: "face small bad", text: error.message }));
    }
  }

  drawChoices(found) {
    const sampled = this.rollout.columns.completion_ids[this.position];
    const kl = this.rollout.columns.reverse_kl?.[this.position] ?? 0;
    const rows = found ? tableOf(found, sampled, kl).list.slice(0, MOST_CHOICES) : [];
    const best = found ? firstChoice(found) : null;
    const first = best ?? null;
    fill(
      this.choices,
      h(
        "div",
        { class: "wi-choice wi-columns muted" },
        h("span"),
        h("span", { text: "token" }),
        h("span", { class: "r", text: "student" }),
        h("span", { class: "r", text: "coach" }),
      ),
    );
    for (const row of rows) {
      const notes = [row.id === first?.id ? "coach’s choice" : "", row.sampled ? "written" : ""]
        .filter(Boolean)
        .join(", ");
      this.choices.append(this.choice(String(row.id), row, notes));
    }
    this.choose(first ? String(first.id) : "text", false);
  }

  choice(key, row, notes) {
    const known = (value) => (typeof value === "number" && !Number.isNaN(value) ? probability(value) : "–");
    return h(
      "label",
      { class: "wi-choice" },
      h("input", { type: "radio", name: "wi-choice", value: key, onchange: () => this.choose(key) }),
      h(
        "span",
        { class: "wi-token", title: [visible(row.text), notes].filter(Boolean).join(" ") },
        h("span", { class: "mono", text: visible(row.text) }),
        notes ? h("span", { class: "muted", text: ` ${notes}` }) : null,
      ),
      h("span", { class: "r num", text: known(row.p) }),
      h("span", { class: "r num", text: known(row.q) }),
    );
  }

  choose(key) {
    for (const radio of this.group.querySelectorAll("input[type=radio]")) radio.checked = radio.value === key;
    this.chosen = key;
  }

  go() {
    if (this.position < 0 || this.reason) return;
    const typed = this.chosen === "text";
    if (typed && !this.typed.value) {
      this.say("Type a token or a text, or take a listed one.");
      this.typed.focus();
      return;
    }
    const at = this.checkpoint.value;
    this.submit.disabled = true;
    this.stop.hidden = false;
    fill(this.results);
    this.say("ModelRequest …");
    this.asking.ask("what-if", {
      rollout: this.rollout.meta.id,
      position: this.position,
      ...(typed ? { text: this.typed.value } : { token: Number(this.chosen) }),
      authors: this.authors.value === "both" ? ["student", "teacher"] : [this.authors.value],
      checkpoint: at === "start" || at === "newest" ? at : Number(at),
      samples: Number(this.samples.input.value),
      temperature: Number(this.temperature.input.value),
      max_new_tokens: Number(this.limit.input.value),
      seed: Number(this.seed.input.value),
    });
  }

  cancel() {
    const busy = this.asking.busy;
    this.asking.cancel();
    this.idle();
    if (busy) this.say("Stopped.");
  }

  idle() {
    this.submit.disabled = Boolean(this.reason);
    this.stop.hidden = true;
  }

  say(text) {
    fill(this.status, text);
  }

  failed(error) {
    this.idle();
    this.say("");
    fill(
      this.results,
      errorBox(error, () => this.go()),
    );
  }

  async done(answer) {
    this.idle();
    const { rollout, position } = this;
    this.say(`Answered in ${fixed(answer.seconds, 1)} s.`);
    try {
      const made = await Promise.all(answer.branches.map(openRollout));
      if (rollout !== this.rollout) return;
      fill(
        this.results,
        this.original(position),
        made.map((branch) => this.card(branch, position)),
      );
      this.results.scrollIntoView({ block: "start" });
      this.list(rollout);
    } catch (error) {
      if (rollout === this.rollout)
        fill(
          this.results,
          errorBox(error, () => this.done(answer)),
        );
    }
  }

  /** The rollout's own tokens from the position on, to compare with. */
  original(position) {
    const kl = this.rollout.columns.reverse_kl;
    if (!kl) return null;
    const rest = Array.from(kl.slice(position));
    const total = rest.reduce((a, b) => a + b, 0);
    return h(
      "p",
      { class: "muted wi-original" },
      "As written, from here on: KL ",
      h("span", { class: "num", text: `${sum(total)} nats, ${fixed(total / rest.length)} a token` }),
      outcome(this.rollout.meta),
    );
  }

  card(branch, position) {
    const { meta, cells, columns } = branch;
    const detail = h("p", { class: "muted wi-detail", text: "" });
    const tinted = new Tinted(`${WORDS[meta.author]}’s continuation`, (at) =>
      this.sentence(detail, branch, at < 0 ? -1 : at + position, position),
    );
    const kl = columns.reverse_kl;
    const top = meta.scales?.reverse_kl > 0 ? meta.scales.reverse_kl : 1;
    tinted.draw(cells.slice(position), kl && Array.from(kl.slice(position)), top);
    return h(
      "article",
      { class: "wi-card", "data-author": meta.author, "data-id": meta.id },
      h(
        "header",
        {},
        h("strong", { text: `${WORDS[meta.author]} goes on` }),
        h("span", { class: "spacer" }),
        link("Open", page("rollout", { id: meta.id, pos: position }), {
          "aria-label": `Open the ${meta.author === "teacher" ? "coach" : "student"}’s continuation in the token view`,
        }),
      ),
      tinted.element,
      detail,
      figures(meta, kl?.[position]),
    );
  }

  async sentence(detail, branch, at, position) {
    detail.dataset.at = at;
    if (at < 0) return void (detail.textContent = "");
    const c = branch.columns;
    const given = {
      p: c.student_logprobs?.[at],
      q: c.teacher_logprobs?.[at],
      kl: c.reverse_kl?.[at],
      author: at === position ? "" : branch.meta.author,
    };
    detail.textContent = sentenceOf(branch.cells[at].raw, given);
    const found = await alternativesAt(branch, at).catch(() => null); // the figures stand without it
    const best = found && firstChoice(found);
    if (!best || detail.dataset.at !== String(at)) return;
    const same = best.id === c.completion_ids[at];
    detail.textContent = sentenceOf(branch.cells[at].raw, {
      ...given,
      best: { text: best.text, p: best.student_logprob, q: best.teacher_logprob, same },
    });
  }

  /** Branches that left this rollout before. */
  async list(rollout) {
    try {
      const found = await get(`rollouts/${rollout.meta.id}/branches`);
      if (rollout !== this.rollout) return;
      const from =
        found.parent &&
        h(
          "p",
          { class: "wi-parent" },
          "This is a branch of ",
          link("its rollout", page("rollout", { id: found.parent.id, pos: found.parent.position })),
          ` at position ${integer(found.parent.position)}.`,
        );
      fill(this.earlier, from, found.total ? table(found.items) : null);
    } catch (error) {
      if (rollout === this.rollout)
        fill(
          this.earlier,
          errorBox(error, () => this.list(rollout)),
        );
    }
  }
}

/** `first` is the KL at the choice itself, which every branch from there has in common. */
function figures(meta, first) {
  const end = meta.finish_reason === "stop" ? "stopped" : "cut at the limit";
  const after = first === undefined ? "" : `, ${sum(Math.max(0, meta.kl_sum - first))} nats after the choice`;
  return h(
    "p",
    { class: "muted num wi-figures" },
    `${end}, KL ${sum(meta.kl_sum)} nats, ${fixed(meta.kl_mean)} a token${after}, step ${meta.step}`,
    outcome(meta),
  );
}

function outcome(meta) {
  const text = verdict(meta);
  return text ? `, ${text}` : null;
}

function table(items) {
  const row = (b) =>
    h(
      "tr",
      {},
      h("td", { class: "r num", text: integer(b.position) }),
      h("td", { text: WORDS[b.author] ?? b.author }),
      h("td", { class: "r num", text: b.step }),
      h("td", { class: "r num", text: sum(b.kl_sum) }),
      h("td", { text: verdict(b) || "–" }),
      h(
        "td",
        {},
        link("Open", page("rollout", { id: b.id, pos: b.position }), {
          "aria-label": `Open the branch at position ${b.position}`,
        }),
      ),
    );
  return [
    h("h2", { text: "Branches so far" }),
    h(
      "table",
      { class: "table" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { class: "r", text: "at" }),
          h("th", { text: "by" }),
          h("th", { class: "r", text: "step" }),
          h("th", { class: "r", text: "KL, nats" }),
          h("th", { text: "answer" }),
          h("th", {}, h("span", { class: "offscreen", text: "open" })),
        ),
      ),
      h("tbody", {}, items.map(row)),
    ),
  ];
}
