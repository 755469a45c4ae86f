// A chat with student and teacher: every reply is scored while it is generated.
import { get, newKey, page } from "../lib/api.js";
import { button, fill, h, poll } from "../lib/dom.js";
import { fixed, plain } from "../lib/format.js";
import {
  ModelRequest,
  modelsLine,
  onProcessor,
  progressText,
  reasonAgainstRequests,
} from "../lib/model_request.js";
import { errorBox, failed, loading } from "../lib/panel_states.js";
import { onTheme, recall } from "../lib/theme.js";
import { usePalette } from "../lib/tints.js";
import { forAddress, restored, save } from "./history.js";
import { ReplyView } from "./reply.js";
import { Settings } from "./settings.js";

const SCALE = 4; // nats at the deepest tint, where a run has no scale of its own
const EXAMPLE =
  "Ada has 12 apples. Ada buys 9 more. Ada loses 4. Ada doubles the apples. How many apples does Ada have?";

/** @param {HTMLElement} root @param {URLSearchParams} params */
export function mount(root, params) {
  new Playground(root, params).start();
}

class Playground {
  /** @param {HTMLElement} root @param {URLSearchParams} params */
  constructor(root, params) {
    this.root = root;
    this.params = params;
    this.session = newKey(); // what the models have read in it is not read again
    /** @type {ChatTurn[]} */
    this.turns = [];
    /** @type {{replies: HTMLElement, views: Partial<Record<Speaker, ReplyView>>}[]} */
    this.drawn = [];
    /** @type {ShownError | null} */
    this.failure = null;
    /** @type {string[]} */
    this.prompts = [];
    this.device = "auto"; // or the processor, once it was chosen
    this.top = SCALE;
    this.usable = true;
    this.reason = "";
    /** @type {string | null} */
    this.run = null;
    /** @type {string | null} */
    this.recipe = null;
    this.settings = new Settings(params, [], [], { source: () => {}, change: () => {} });
    this.talk = h("div", { class: "pg-talk", id: "pg-talk" });
    this.message = h("textarea", {
      class: "field",
      id: "pg-message",
      rows: "3",
      maxlength: "20000",
      "aria-label": "Message",
      placeholder: "Message both models",
      disabled: true, // until it is known whose models answer
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.key(event),
    });
    this.sendButton = button("Send", null, {
      id: "pg-send",
      class: "btn strong",
      type: "submit",
      disabled: true,
    });
    this.stopButton = button("Stop", () => this.stop(), { id: "pg-stop", hidden: true });
    this.status = h("p", { class: "muted", role: "status", "aria-live": "polite", id: "pg-status" });
    this.models = h("span", { class: "pg-models" });
    this.examples = h("div", { class: "pg-examples" });
    this.legend = h("span", { class: "muted pg-legend" });
    this.request = new ModelRequest({
      change: (state) => this.change(state),
      done: (answer, id) => this.done(answer, id),
      failed: (error) => this.fail(error),
    });
  }

  async start() {
    loading(this.root, "runs");
    try {
      const [runs, recipes, reason] = await Promise.all([
        get("runs", { limit: 200 }),
        get("recipes"),
        reasonAgainstRequests(),
      ]);
      const trained = runs.items.filter((/** @type {Run} */ run) => run.source !== "import");
      this.settings = new Settings(this.params, trained, recipes.items, {
        source: (key) => {
          this.stop();
          this.useSource(key, "newest");
        },
        change: () => this.remember(),
      });
      this.reason = reason;
    } catch (error) {
      failed(this.root, error, () => this.start());
      return;
    }
    usePalette(recall("palette", "oranges"));
    onTheme(() => usePalette(recall("palette", "oranges")));
    this.build();
    this.turns = restored(this.settings.source.value);
    await this.useSource(this.settings.source.value, this.params.get("step") ?? "newest");
    poll(4000, () => this.modelsState());
    this.modelsState();
  }

  build() {
    const onsubmit = (/** @type {SubmitEvent} */ event) => {
      event.preventDefault();
      this.send();
    };
    const clear = button("New chat", () => this.clear(), { id: "pg-clear", class: "btn quiet" });
    const form = h(
      "form",
      { class: "pg-form", onsubmit },
      this.message,
      h("div", { class: "pg-buttons" }, this.sendButton, this.stopButton, clear, this.status),
    );
    fill(
      this.root,
      h(
        "div",
        { class: "pg-head" },
        h("h1", { text: "Playground" }),
        this.legend,
        h("span", { class: "spacer" }),
        this.models,
      ),
      this.settings.element,
      h("section", { class: "panel pg-panel", "aria-label": "Chat" }, this.talk, this.examples, form),
    );
  }

  async modelsState() {
    fill(this.models, await modelsLine().catch(() => null)); // the page works without it
  }

  /** Offers the checkpoints of a run, and prompts to try. @param {string} key @param {string} step */
  async useSource(key, step) {
    const [kind, name] = Settings.sourceOf(key);
    this.run = kind === "run" ? name : null;
    this.recipe = kind === "recipe" ? name : null;
    this.top = SCALE;
    this.prompts = this.recipe === "demo" ? [EXAMPLE] : [];
    /** @type {number[]} */
    let steps = [];
    try {
      if (this.run) steps = await this.readRun(this.run);
    } catch (error) {
      this.run = null;
      this.usable = false;
      failed(this.talk, error, () => this.useSource(key, step));
      this.offer();
      return;
    }
    this.usable = true;
    this.legend.textContent = `Tint: exact reverse KL, 0 to ${fixed(this.top, 1)} nats`;
    this.settings.offerCheckpoints(steps, step);
    this.draw();
    this.offer();
    this.remember();
  }

  /** Takes scale and prompts from a run; → the steps of its checkpoints, newest first. @param {string} id */
  async readRun(id) {
    /** @type {[Run, Page<RolloutItem>]} */
    const [run, rollouts] = await Promise.all([
      get(`runs/${id}`),
      get(`runs/${id}/rollouts`, { sort: "-kl_max", limit: 40 }),
    ]);
    this.top = run.scales?.reverse_kl || SCALE;
    const prompts = new Set(rollouts.items.map((r) => r.prompt));
    this.prompts = [...prompts].filter((prompt) => prompt.length < 400).slice(0, 3);
    return (run.checkpoints ?? []).map((c) => c.step).reverse();
  }

  offer() {
    const blocked = Boolean(this.reason) || !this.usable;
    this.sendButton.disabled = blocked || this.request.busy;
    this.message.disabled = blocked;
    if (this.reason) fill(this.status, this.reason);
    const items = this.turns.length || blocked ? [] : this.prompts;
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

  /** @param {string} text */
  take(text) {
    this.message.value = text;
    this.message.focus();
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.send();
  }

  send() {
    const user = this.message.value;
    if (!user.trim() || this.request.busy || this.sendButton.disabled) return;
    this.message.value = "";
    this.turns.push({ user, replies: {} });
    this.draw();
    this.ask();
  }

  /** Asks for replies to the newest turn; each speaker gets its own replies so far. */
  ask() {
    const { who, step, sampling } = this.settings;
    const conversations = Object.fromEntries(who.map((speaker) => [speaker, this.conversation(speaker)]));
    const models = this.run
      ? { run: this.run, checkpoint: step }
      : { recipe: this.recipe, checkpoint: "start" };
    this.stopButton.hidden = false;
    this.failure = null;
    fill(this.status, "Sending …");
    this.offer();
    this.request.ask("chat", {
      ...models,
      session: this.session,
      conversations,
      device: this.device,
      ...sampling,
    });
    this.sendButton.disabled = true;
  }

  /** @param {Speaker} speaker */
  conversation(speaker) {
    return this.turns.flatMap((turn, i) => {
      const messages = [{ role: "user", content: turn.user }];
      const reply = turn.replies[speaker];
      if (i < this.turns.length - 1 && reply?.text) messages.push({ role: "assistant", content: reply.text });
      return messages;
    });
  }

  /** @param {ModelRequestState} state */
  change(state) {
    fill(this.status, progressText(state));
    if (state.answer?.replies) this.takeIn(state.answer, null);
  }

  /** @param {{replies: Reply[], texts: TokenTexts}} answer @param {string | null} id */
  takeIn(answer, id) {
    const turn = this.turns.at(-1);
    if (!turn) return;
    for (const [index, reply] of answer.replies.entries())
      turn.replies[reply.author] = { ...reply, texts: answer.texts, request: id, index };
    this.drawTurn(this.turns.length - 1);
  }

  /** @param {{replies: Reply[], texts: TokenTexts, seconds: number, chat: boolean}} answer @param {string} id */
  done(answer, id) {
    this.takeIn(answer, id);
    this.idle();
    const count = answer.replies.reduce((n, reply) => n + reply.ids.length, 0);
    fill(
      this.status,
      `${count} tokens in ${fixed(answer.seconds, 1)} s.`,
      !answer.chat &&
        " The student’s tokenizer has no chat template, so each message is sent as its own prompt.",
    );
    this.save();
    this.modelsState();
    this.message.focus();
  }

  /** @param {ShownError} error */
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
    if (!this.request.busy) return;
    this.request.cancel();
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
    fill(this.talk, !this.turns.length && nothingYet());
    this.turns.forEach((_, i) => {
      this.drawTurn(i);
    });
    const { failure } = this;
    if (!failure) return;
    const elsewhere = onProcessor(failure, () => this.retryOnProcessor());
    this.talk.append(errorBox(failure, () => this.retry(), elsewhere));
  }

  retryOnProcessor() {
    this.device = "cpu";
    this.retry();
  }

  retry() {
    this.failure = null;
    this.draw();
    this.ask();
  }

  /** @param {number} i */
  drawTurn(i) {
    const turn = this.turns[i];
    this.drawn[i] ??= { replies: this.addTurn(turn), views: {} };
    const { replies, views } = this.drawn[i];
    for (const reply of [turn.replies.student, turn.replies.teacher]) {
      if (!reply) continue;
      const view = views[reply.author] ?? new ReplyView(reply, (text) => fill(this.status, text));
      if (!view.element.isConnected) replies.append(view.element);
      views[reply.author] = view;
      view.update(reply, this.top, this.run !== null);
    }
  }

  /** Adds a message; → where its replies go. @param {ChatTurn} turn */
  addTurn(turn) {
    const replies = h("div", { class: "pg-replies" });
    const user = h(
      "p",
      { class: "pg-user" },
      h("span", { class: "offscreen", text: "You: " }),
      plain(turn.user, 20_000),
    );
    this.talk.append(h("article", { class: "pg-turn" }, user, replies));
    return replies;
  }

  /** The settings go into the address, and a short chat too. */
  remember() {
    const address = page("playground", {
      run: this.run,
      recipe: this.recipe === "demo" ? null : this.recipe,
      step: this.run ? this.settings.checkpoint.value : null,
      ...this.settings.forAddress,
      said: forAddress(this.turns),
    });
    history.replaceState(null, "", address);
  }

  save() {
    this.remember();
    save(this.settings.source.value, this.turns);
  }
}

function nothingYet() {
  const text =
    "Replies appear token by token; the deeper the tint, the more student and teacher disagree there.";
  return h("div", { class: "face" }, h("strong", { text: "No messages yet" }), h("p", { text }));
}
