// Another choice at a token, and how student or teacher continue from there.
import { get } from "../../lib/api.js";
import { fill, h } from "../../lib/dom.js";
import { fixed, integer } from "../../lib/format.js";
import {
  ModelRequest,
  modelsLine,
  onProcessor,
  progressText,
  reasonAgainstRequests,
} from "../../lib/model_request.js";
import { errorBox } from "../../lib/panel_states.js";
import { openRollout } from "../open.js";
import { sameRollout } from "../state.js";
import { bounded } from "../text/glyphs.js";
import { alternativesAt } from "./alternatives.js";
import { WhatIfForm } from "./what_if_form.js";
import { branchTable, card, original, parentLine } from "./what_if_results.js";

const FETCH_AFTER = 60; // ms that a token stays pinned

/** @implements {Panel} */
export class WhatIf {
  constructor() {
    /** @type {(keyof ViewState)[]} */
    this.follows = ["rollout", "pinned"];
    /** @type {Rollout | null} */
    this.rollout = null;
    this.timer = 0;
    this.position = -1;
    /** @type {{rollout: Rollout, position: number} | null} */
    this.sent = null; // the rollout and the position of the request that is answered
    this.refusal = ""; // why this visitor may not ask
    this.turn = 0;
    this.device = "auto"; // or the processor, once it was chosen
    this.head = h("p", { class: "wi-head" });
    this.form = new WhatIfForm({ submit: () => this.ask(), stop: () => this.cancel() });
    this.status = h("p", { class: "muted wi-status", role: "status", "aria-live": "polite" });
    this.results = h("div", { class: "wi-results", id: "what-if-results" });
    this.earlier = h("div", { class: "wi-earlier", id: "what-if-earlier" });
    this.element = h("section", { class: "what-if", id: "what-if", "aria-label": "What if" });
    this.request = new ModelRequest({
      change: (request) => this.say(progressText(request)),
      done: (answer) => this.done(answer),
      failed: (error) => this.failed(error),
    });
  }

  /** @param {RolloutView} snapshot */
  update({ rollout, pinned }) {
    const isOther = !sameRollout(this.rollout, rollout);
    this.rollout = rollout;
    if (isOther) this.begin(rollout);
    if (pinned < 0 && this.position >= 0) this.unpinned();
    else if (pinned >= 0 && pinned !== this.position) this.choosePosition(rollout, pinned);
  }

  /** @param {Rollout} rollout */
  begin(rollout) {
    this.cancel();
    this.form.temperature.input.value = String(rollout.meta.temperature ?? 1);
    fill(this.results);
    fill(this.earlier);
    this.unpinned();
    this.loadRun(rollout);
    this.listBranches(rollout);
  }

  /** @param {Rollout} rollout */
  isShown(rollout) {
    return sameRollout(rollout, this.rollout);
  }

  /** The run's checkpoints, and whether this visitor may ask. @param {Rollout} rollout */
  async loadRun(rollout) {
    try {
      const [run, reason, state] = await Promise.all([
        get(`runs/${rollout.meta.run_id}`),
        reasonAgainstRequests(),
        modelsLine(),
      ]);
      if (!this.isShown(rollout)) return;
      this.refusal =
        run.source === "import"
          ? "An imported run has no models, so nothing can continue from here."
          : reason;
      this.form.offerCheckpoints(run);
      if (!this.request.busy) fill(this.status, this.refusal || state);
      this.showForm();
    } catch (error) {
      this.showError(rollout, this.results, error, () => this.loadRun(rollout));
    }
  }

  showForm() {
    this.form.show({ busy: this.request.busy, refused: Boolean(this.refusal) });
  }

  /**
   * @param {Rollout} rollout
   * @param {HTMLElement} element
   * @param {ShownError} error
   * @param {() => unknown} retry
   */
  showError(rollout, element, error, retry) {
    if (this.isShown(rollout)) fill(element, errorBox(error, retry));
  }

  unpinned() {
    this.position = -1;
    const text =
      "Click a token, or press n for the worst one. Then replace it, and let student or teacher continue.";
    fill(
      this.element,
      h("div", { class: "face" }, h("strong", { text: "Pin a token first" }), h("p", { text })),
      this.status,
      this.results,
      this.earlier,
    );
  }

  /** @param {Rollout} rollout @param {number} position */
  choosePosition(rollout, position) {
    const turn = ++this.turn;
    this.position = position;
    if (!this.head.isConnected || !this.form.element.isConnected)
      fill(
        this.element,
        this.head,
        this.form.group,
        this.form.element,
        this.status,
        this.results,
        this.earlier,
      );
    fill(
      this.head,
      "Instead of ",
      h("strong", { class: "mono", text: bounded(rollout.cells[position].raw) }),
      h("span", { class: "muted", text: ` at position ${integer(position)}` }),
    );
    this.form.offer(rollout, position, null);
    clearTimeout(this.timer);
    if (rollout.meta.top_k)
      this.timer = setTimeout(() => this.loadAlternatives(rollout, position, turn), FETCH_AFTER);
  }

  /** @param {Rollout} rollout @param {number} position @param {number} turn */
  async loadAlternatives(rollout, position, turn) {
    try {
      const alternatives = await alternativesAt(rollout, position);
      if (turn === this.turn) this.form.offer(rollout, position, alternatives);
    } catch (error) {
      if (turn === this.turn)
        fill(this.form.choices, h("p", { class: "face small bad", text: error.message }));
    }
  }

  ask() {
    const { rollout, position } = this;
    if (!rollout || position < 0 || this.refusal) return;
    if (this.form.textIsMissing()) return this.say("Type a token or a text, or choose one from the list.");
    fill(this.results);
    this.say("Sending the request …");
    this.sent = { rollout, position };
    this.request.ask("what-if", {
      rollout: rollout.meta.id,
      position,
      device: this.device,
      ...this.form.values(),
    });
    this.showForm();
  }

  cancel() {
    const { busy } = this.request;
    this.request.cancel();
    this.showForm();
    if (busy) this.say("Stopped.");
  }

  /** @param {Child} text */
  say(text) {
    fill(this.status, text);
  }

  /** @param {ShownError} error */
  failed(error) {
    this.showForm();
    this.say("");
    fill(
      this.results,
      errorBox(
        error,
        () => this.ask(),
        onProcessor(error, () => this.askProcessor()),
      ),
    );
  }

  askProcessor() {
    this.device = "cpu";
    this.ask();
  }

  /** @param {{seconds: number, branches: string[]}} answer */
  async done(answer) {
    this.showForm();
    if (!this.sent) return;
    const { rollout, position } = this.sent;
    this.say(`Done in ${fixed(answer.seconds, 1)} s.`);
    try {
      const branches = await Promise.all(answer.branches.map(openRollout));
      if (!this.isShown(rollout)) return;
      fill(
        this.results,
        original(rollout, position),
        branches.map((branch) => card(branch, position)),
      );
      this.results.scrollIntoView({ block: "start" });
      this.listBranches(rollout);
    } catch (error) {
      this.showError(rollout, this.results, error, () => this.done(answer));
    }
  }

  /**
   * Branches that left this rollout before, and the one that it is itself a branch of.
   * @param {Rollout} rollout
   */
  async listBranches(rollout) {
    try {
      const { parent, total, items } = await get(`rollouts/${rollout.meta.id}/branches`);
      if (!this.isShown(rollout)) return;
      fill(this.earlier, parent && parentLine(parent), total ? branchTable(items) : null);
    } catch (error) {
      this.showError(rollout, this.earlier, error, () => this.listBranches(rollout));
    }
  }
}
