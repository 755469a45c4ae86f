// A chat with student and teacher: every reply is scored while it is generated.
import { get, page, query } from "../lib/api.js";
import { button, fill, h, link, numberField, poll, select } from "../lib/dom.js";
import { fixed, plain, sum } from "../lib/format.js";
import { ModelRequest, modelsLine, progressText, reasonAgainstRequests } from "../lib/model_request.js";
import { errorBox, failed, loading } from "../lib/panel_states.js";
import { onTheme, recall } from "../lib/theme.js";
import { usePalette } from "../lib/tints.js";
import { cellsOf } from "../rollout/text/glyphs.js";
import { sentenceOf, Tinted } from "../rollout/text/tinted.js";

const SPEAKERS = [
  ["both", "both, side by side"],
  ["student", "student"],
  ["teacher", "teacher"],
];
const WORDS = { student: "Student", teacher: "Teacher" };
const SCALE = 4; // nats at the deepest tint, where a run has no scale of its own
const SHORT = 1500; // characters of a history that goes into the address
const BUNDLED =
  "Ada has 12 apples. Ada buys 9 more. Ada loses 4. Ada doubles the apples. How many apples does Ada have?";

export function mount(root, params) {
  new Playground(root, params).start();
}

class Playground {
  constructor(root, params) {
    this.root = root;
    this.params = params;
    this.turns = []; // {user, replies: {student?, teacher?}}
    this.top = SCALE;
  }

  async start() {
    loading(this.root, "runs");
    try {
      const [runs, recipes, reason] = await Promise.all([
        get("runs", { limit: 200 }),
        get("recipes"),
        reasonAgainstRequests(),
      ]);
      this.runs = runs.items.filter((r) => r.source !== "import");
      this.recipes = recipes.items;
      this.reason = reason;
    } catch (error) {
      failed(this.root, error, () => this.start());
      return;
    }
    usePalette(recall("palette", "oranges"));
    onTheme(() => usePalette(recall("palette", "oranges")));
    this.build();
    this.restore();
    await this.useSource(this.source.value, this.params.get("step") ?? "newest");
    poll(4000, () => this.modelsState());
    this.modelsState();
  }

  build() {
    const wanted = this.params.get("run")
      ? `run:${this.params.get("run")}`
      : `recipe:${this.params.get("recipe") ?? "demo"}`;
    const options = [
      ...this.recipes.map((r) => [`recipe:${r.name}`, `Recipe: ${plain(r.title ?? r.name, 60)}`]),
      ...this.runs.map((r) => [`run:${r.id}`, `Run: ${plain(r.name || r.id, 60)}`]),
    ];
    if (!options.some(([key]) => key === wanted)) options.push([wanted, wanted.replace(/^\w+:/, "")]);
    this.source = select(options, wanted, (key) => (this.stop(), this.useSource(key, "newest")), {
      id: "pg-source",
    });
    this.checkpoint = select([["start", "start"]], "start", () => this.remember(), { id: "pg-step" });
    this.speakers = select(SPEAKERS, this.params.get("who") ?? "both", () => this.remember(), {
      id: "pg-who",
    });
    this.temperature = numberField("pg-temperature", "Temperature", this.params.get("temperature") ?? 1, {
      min: 0,
      max: 10,
      step: "any",
      title: "0 decodes greedily; scored at temperature 1",
    });
    this.limit = numberField("pg-limit", "New tokens", this.params.get("limit") ?? 128, {
      min: 1,
      max: 2048,
      title: "maximum per reply",
    });
    this.seed = numberField("pg-seed", "Seed", this.params.get("seed") ?? 0, { min: 0, max: 2147483647 });
    this.talk = h("div", { class: "pg-talk", id: "pg-talk" });
    this.message = h("textarea", {
      class: "field",
      id: "pg-message",
      rows: "3",
      maxlength: "20000",
      "aria-label": "Message",
      placeholder: "Message both models",
      onkeydown: (e) => this.key(e),
    });
    this.sendButton = button("Send", null, { id: "pg-send", class: "btn strong", type: "submit" });
    this.stopButton = button("Stop", () => this.stop(), { id: "pg-stop", hidden: true });
    this.clearButton = button("New chat", () => this.clear(), { id: "pg-clear", class: "btn quiet" });
    this.status = h("p", { class: "muted", role: "status", "aria-live": "polite", id: "pg-status" });
    this.state = h("span", { class: "pg-models" });
    this.examples = h("div", { class: "pg-examples" });
    this.legend = h("span", { class: "muted pg-legend" });
    const labelled = (label, element) =>
      h(
        "label",
        { class: "ask-field", for: element.id },
        h("span", { class: "muted", text: label }),
        element,
      );
    const settings = h(
      "div",
      { class: "pg-settings" },
      labelled("Models", this.source),
      labelled("Student checkpoint", this.checkpoint),
      labelled("Reply from", this.speakers),
      this.temperature.element,
      this.limit.element,
      this.seed.element,
    );
    const form = h(
      "form",
      { class: "pg-form", onsubmit: (e) => (e.preventDefault(), this.go()) },
      this.message,
      h("div", { class: "pg-buttons" }, this.sendButton, this.stopButton, this.clearButton, this.status),
    );
    fill(
      this.root,
      h(
        "div",
        { class: "pg-head" },
        h("h1", { text: "Playground" }),
        this.legend,
        h("span", { class: "spacer" }),
        this.state,
      ),
      settings,
      h("section", { class: "panel pg-panel", "aria-label": "Chat" }, this.talk, this.examples, form),
    );
    this.asking = new ModelRequest({
      change: (found) => this.change(found),
      done: (answer, id) => this.done(answer, id),
      failed: (error) => this.fail(error),
    });
  }

  async modelsState() {
    fill(this.state, await modelsLine().catch(() => null)); // the page works without it
  }

  /** Offers the checkpoints of a run, and prompts to try. */
  async useSource(key, step) {
    const [kind, name] = [key.slice(0, key.indexOf(":")), key.slice(key.indexOf(":") + 1)];
    this.run = kind === "run" ? name : null;
    this.recipe = kind === "recipe" ? name : null;
    this.top = SCALE;
    let steps = [];
    let prompts = this.recipe === "demo" ? [BUNDLED] : [];
    try {
      if (this.run) {
        const [run, rollouts] = await Promise.all([
          get(`runs/${this.run}`),
          get(`runs/${this.run}/rollouts`, { sort: "-kl_max", limit: 40 }),
        ]);
        steps = run.checkpoints.map((c) => c.step).reverse();
        this.top = run.scales?.reverse_kl > 0 ? run.scales.reverse_kl : SCALE;
        prompts = [...new Set(rollouts.items.map((r) => r.prompt))].filter((p) => p.length < 400).slice(0, 3);
      }
    } catch (error) {
      this.run = null;
      this.unusable = true;
      failed(this.talk, error, () => this.useSource(key, step));
      this.offer();
      return;
    }
    this.unusable = false;
    this.legend.textContent = `Tint: exact reverse KL, 0 to ${fixed(this.top, 1)} nats`;
    const options = [
      ...steps.map((s, i) => [String(s), i ? `checkpoint ${s}` : `checkpoint ${s} (newest)`]),
      ["start", "start"],
    ];
    fill(
      this.checkpoint,
      options.map(([value, text]) => h("option", { value, text })),
    );
    this.checkpoint.value =
      steps.map(String).includes(String(step)) || step === "start"
        ? String(step)
        : String(steps[0] ?? "start");
    this.prompts = prompts;
    this.draw();
    this.offer();
    this.remember();
  }

  offer() {
    const blocked = Boolean(this.reason) || this.unusable;
    this.sendButton.disabled = blocked || this.asking.busy;
    this.message.disabled = blocked;
    if (this.reason) fill(this.status, this.reason);
    const items = this.turns.length || blocked ? [] : (this.prompts ?? []);
    fill(
      this.examples,
      items.length ? h("span", { class: "muted", text: "Examples:" }) : null,
      items.map((text) =>
        button(plain(text, 140), () => this.take(text), {
          class: "btn small quiet pg-example",
          title: plain(text),
        }),
      ),
    );
  }

  take(text) {
    this.message.value = text;
    this.message.focus();
  }

  key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.go();
  }

  go() {
    const user = this.message.value;
    if (!user.trim() || this.asking.busy || this.sendButton.disabled) return;
    this.message.value = "";
    this.turns.push({ user, replies: {} });
    this.draw();
    this.ask();
  }

  /** Asks about the newest turn; each speaker is told its own replies so far. */
  ask() {
    const who = this.speakers.value === "both" ? ["student", "teacher"] : [this.speakers.value];
    const conversations = Object.fromEntries(who.map((speaker) => [speaker, this.history(speaker)]));
    const at = this.checkpoint.value;
    this.sendButton.disabled = true;
    this.stopButton.hidden = false;
    this.failure = null;
    fill(this.status, "Sending …");
    this.offer();
    this.asking.ask("chat", {
      ...(this.run
        ? { run: this.run, checkpoint: at === "start" ? at : Number(at) }
        : { recipe: this.recipe, checkpoint: "start" }),
      conversations,
      temperature: Number(this.temperature.input.value),
      max_new_tokens: Number(this.limit.input.value),
      seed: Number(this.seed.input.value),
    });
    this.sendButton.disabled = true;
  }

  history(speaker) {
    return this.turns.flatMap((turn, i) => {
      const mine = [{ role: "user", content: turn.user }];
      const reply = turn.replies[speaker];
      if (i < this.turns.length - 1 && reply?.text) mine.push({ role: "assistant", content: reply.text });
      return mine;
    });
  }

  change(found) {
    fill(this.status, progressText(found));
    if (found.answer?.replies) this.takeIn(found.answer, null);
  }

  takeIn(answer, id) {
    const turn = this.turns.at(-1);
    if (!turn) return;
    answer.replies.forEach((reply, index) => {
      turn.replies[reply.author] = {
        ...reply,
        texts: answer.texts,
        chat: answer.chat,
        asked: id,
        index,
        models: answer.models,
      };
    });
    this.drawTurn(this.turns.length - 1);
  }

  done(answer, id) {
    this.takeIn(answer, id);
    this.idle();
    const count = answer.replies.reduce((n, r) => n + r.ids.length, 0);
    fill(
      this.status,
      `${count} tokens in ${fixed(answer.seconds, 1)} s.${answer.chat ? "" : " The student’s tokenizer has no chat template, so each message is sent as its own prompt."}`,
    );
    this.save();
    this.modelsState();
    this.message.focus();
  }

  fail(error) {
    this.idle();
    fill(this.status);
    this.failure = error;
    this.draw();
  }

  idle() {
    this.stopButton.hidden = true;
    this.offer();
  }

  stop() {
    if (!this.asking.busy) return;
    this.asking.cancel();
    this.idle();
    fill(this.status, "Stopped.");
  }

  clear() {
    this.stop();
    this.turns = [];
    this.failure = null;
    this.draw();
    this.offer();
    fill(this.status, this.reason);
    this.save();
    this.message.focus();
  }

  draw() {
    this.drawn = [];
    fill(this.talk);
    if (!this.turns.length) {
      fill(
        this.talk,
        h(
          "div",
          { class: "face" },
          h("strong", { text: "No messages yet" }),
          h("p", {
            text: "Replies appear token by token; the deeper the tint, the more student and teacher disagree there.",
          }),
        ),
      );
    }
    this.turns.forEach((_, i) => this.drawTurn(i));
    if (this.failure)
      this.talk.append(errorBox(this.failure, () => ((this.failure = null), this.draw(), this.ask())));
  }

  drawTurn(i) {
    const turn = this.turns[i];
    this.drawn[i] ??= this.place(turn);
    for (const author of ["student", "teacher"]) {
      const reply = turn.replies[author];
      if (reply) (this.drawn[i][author] ??= this.column(this.drawn[i].replies, author, reply)).update(reply);
    }
  }

  place(turn) {
    const replies = h("div", { class: "pg-replies" });
    this.talk.append(
      h(
        "article",
        { class: "pg-turn" },
        h(
          "p",
          { class: "pg-user" },
          h("span", { class: "offscreen", text: "You: " }),
          plain(turn.user, 20_000),
        ),
        replies,
      ),
    );
    return { replies };
  }

  column(parent, author, first) {
    let reply = first;
    const detail = h("p", { class: "muted pg-detail" });
    const figures = h("p", { class: "muted num pg-figures" });
    const keep = button("Save", () => this.keep(reply, keep), {
      class: "btn small",
      hidden: true,
      title: "Saves the reply as a rollout of the run",
    });
    const cells = () => cellsOf(reply.ids, reply.texts);
    const tinted = new Tinted(`${WORDS[author]}’s reply`, (at) => {
      detail.textContent = at < 0 || at >= reply.ids.length ? "" : this.sentence(reply, cells()[at], at);
    });
    parent.append(
      h(
        "section",
        { class: "pg-reply", "data-author": author, "aria-label": WORDS[author] },
        h("header", {}, h("strong", { text: WORDS[author] }), h("span", { class: "spacer" }), keep),
        tinted.element,
        detail,
        figures,
      ),
    );
    const update = (next) => {
      reply = next;
      tinted.draw(cells(), reply.reverse_kl, this.top);
      tinted.element.dataset.tokens = reply.ids.length;
      figures.textContent = summary(reply);
      keep.hidden = !(this.run && reply.asked && reply.finish_reason);
    };
    return { update };
  }

  sentence(reply, cell, at) {
    const wanted = reply.wanted[at];
    const best = wanted && {
      text: reply.texts[wanted[0]]?.t ?? `⟨${wanted[0]}⟩`,
      p: wanted[1],
      q: wanted[2],
      same: wanted[0] === reply.ids[at],
    };
    return sentenceOf(cell.raw, {
      p: reply.student_logprobs[at],
      q: reply.teacher_logprobs[at],
      kl: reply.reverse_kl[at],
      best,
      author: reply.author,
    });
  }

  async keep(reply, element) {
    element.disabled = true;
    element.textContent = "Saving …";
    const told = new ModelRequest({
      change: () => {},
      done: (answer) => element.replaceWith(link("Saved: open", page("rollout", { id: answer.rollout }))),
      failed: (error) => {
        element.disabled = false;
        element.textContent = "Save";
        fill(this.status, `Not saved: ${error.message}`);
      },
    });
    told.ask(`chat/${reply.asked}/keep`, { reply: reply.index });
  }

  /** The settings go into the address, and a short history too; a longer one into the session. */
  remember() {
    const said = JSON.stringify(
      this.turns.map((t) => [t.user, t.replies.student?.text ?? null, t.replies.teacher?.text ?? null]),
    );
    const short = this.turns.length && said.length <= SHORT;
    history.replaceState(
      null,
      "",
      page("playground", {
        run: this.run,
        recipe: this.recipe === "demo" ? null : this.recipe,
        step: this.run ? this.checkpoint.value : null,
        who: this.speakers.value === "both" ? null : this.speakers.value,
        temperature: this.temperature.input.value === "1" ? null : this.temperature.input.value,
        said: short ? said : null,
      }),
    );
  }

  save() {
    this.remember();
    try {
      sessionStorage.setItem("opd-chat", JSON.stringify({ source: this.source.value, turns: this.turns }));
    } catch {
      sessionStorage.removeItem("opd-chat"); // too long to be kept
    }
  }

  restore() {
    const asked = query().get("said");
    const kept = read(sessionStorage.getItem("opd-chat"));
    const said = asked ? read(asked) : null;
    const same = kept?.source === this.source.value ? kept.turns : null;
    const texts = (turns) =>
      JSON.stringify(
        turns.map((t) => [t.user, t.replies.student?.text ?? null, t.replies.teacher?.text ?? null]),
      );
    if (Array.isArray(same) && (!asked || texts(same) === asked)) this.turns = same;
    else if (Array.isArray(said))
      this.turns = said.filter((t) => Array.isArray(t) && typeof t[0] === "string").map(fromAddress);
  }
}

/** A turn whose tokens are not known any more: its texts, untinted. */
function fromAddress([user, student, teacher]) {
  const bare = (author, text) => ({
    author,
    text,
    ids: [0],
    texts: { 0: { t: text } },
    student_logprobs: [null],
    teacher_logprobs: [null],
    reverse_kl: [null],
    wanted: [null],
    finish_reason: "stop",
    bare: true,
  });
  const replies = {};
  if (typeof student === "string") replies.student = bare("student", student);
  if (typeof teacher === "string") replies.teacher = bare("teacher", teacher);
  return { user, replies };
}

function read(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

function summary(reply) {
  if (reply.bare) return "Restored from the address, which holds no scores.";
  const known = reply.reverse_kl.filter((v) => typeof v === "number");
  const total = known.reduce((a, b) => a + b, 0);
  const kl = known.length
    ? `, KL ${sum(total)} nats, ${fixed(total / known.length)} per token`
    : ", not scored: no teacher";
  const end = { stop: "finished", length: "truncated" }[reply.finish_reason] ?? "generating";
  return `${reply.ids.length} tokens, ${end}${kl}`;
}
