// One run while it goes and after: state, charts, worst tokens, log.

import { Insights } from "../insights/insights.js";
import { get, send } from "../lib/api.js";
import { button, fill, h, link, poll, toast } from "../lib/dom.js";
import { isLive, plain } from "../lib/format.js";
import { errorBox, failed, loading } from "../lib/panel_states.js";
import { RunNotifier } from "../lib/run_notifier.js";
import { WorstTokens } from "../rollouts/worst.js";
import { RunCharts } from "./charts.js";
import { Diagnosis } from "./diagnosis.js";
import { RunHead } from "./head.js";
import { LogTail } from "./log.js";
import { RunMarks } from "./marks.js";
import { SystemCurves } from "./system.js";

const LIVE = 1500; // ms
const WORST_EVERY = 4; // ticks

/** @param {HTMLElement} root @param {URLSearchParams} params */
export function mount(root, params) {
  new RunPage(root, params.get("id") ?? "").start();
}

class RunPage {
  /** @type {Run} */
  run;
  /** @type {RunHead} */
  head;
  /** @type {RunCharts} */
  charts;
  /** @type {SystemCurves} */
  system;
  /** @type {WorstTokens} */
  worst;
  /** @type {LogTail} */
  log;
  /** @type {RunMarks} */
  marks;
  /** @type {Diagnosis} */
  diagnosis;
  /** @type {Insights} */
  insights;
  /** @type {RunNotifier} */
  notifier;
  /** @type {HTMLElement} */
  notice;
  deleted = false;

  /** @param {HTMLElement} root @param {string} id */
  constructor(root, id) {
    this.root = root;
    this.id = id;
    this.tick = 0;
  }

  /** @returns {Promise<unknown>} */
  async start() {
    if (!this.id) {
      const error = { message: "The address names no run", hint: "Open one from the list of runs." };
      return fill(this.root, errorBox(error));
    }
    loading(this.root, "the run");
    try {
      this.run = await get(`runs/${this.id}`);
    } catch (error) {
      return failed(this.root, error, () => this.start());
    }
    this.build();
    await this.refresh();
    poll(LIVE, () => this.refresh());
  }

  build() {
    document.title = `${plain(this.run.name || this.id, 60)} · OPD Studio`;
    this.head = new RunHead(
      {
        cancel: (mode) => this.act("cancel", { mode, asked: this.run.cancel_mode ?? "" }),
        resume: () => this.resume(),
        accept: () => this.act("resume", { accept_changes: true }),
        remove: () => this.remove(),
        saved: () => this.refresh(),
      },
      this.id,
    );
    this.head.showLine(this.run); // its links lead somewhere from the start
    this.charts = new RunCharts(this.id);
    this.system = new SystemCurves(this.id, () => this.charts.controls.weight);
    this.charts.onDraw = () => this.system.draw();
    this.worst = new WorstTokens(this.id);
    this.log = new LogTail(this.id);
    this.marks = new RunMarks(this.id);
    this.diagnosis = new Diagnosis(this.id);
    this.insights = new Insights(this.id);
    this.notifier = new RunNotifier();
    this.notice = h("div");
    fill(
      this.root,
      this.head.element,
      this.notice,
      this.diagnosis.element,
      this.charts.element,
      this.system.element,
      h("div", { class: "run-columns" }, this.worst.element, this.log.element),
      this.marks.element,
      this.insights.element,
    );
    this.head.bar.after(this.notifier.element);
  }

  /** Deletes the run; the page stays, with the way back. */
  async remove() {
    try {
      await send("DELETE", `runs/${this.id}?status=${this.run.status}`);
    } catch (error) {
      return toast([error.message, error.hint].filter(Boolean).join(". "));
    }
    this.deleted = true;
    const undo = async () => {
      await send("POST", `runs/${this.id}/restore`);
      this.deleted = false;
      await this.refresh();
    };
    const face = h("section", { class: "panel problem", role: "alert", id: "deleted" });
    fill(
      face,
      h("h2", { text: "This run is deleted" }),
      h(
        "p",
        { class: "row" },
        button("Undo", undo, { class: "btn" }),
        link("All runs", "./", { class: "btn quiet" }),
      ),
    );
    fill(this.notice, face);
    face.querySelector("button")?.focus();
  }

  async refresh() {
    if (this.deleted) return;
    const before = this.run;
    try {
      this.run = await get(`runs/${this.id}`);
      if (this.run.attempt !== before.attempt) this.charts.reset();
      this.charts.counts = this.run.evaluation_prompts ?? [];
      const live = isLive(this.run.status);
      const changed = live || this.tick === 0 || before.status !== this.run.status;
      const fresh = changed ? await this.charts.refresh() : false;
      if (changed) await this.log.refresh();
      if (this.tick > 0 || !live) await this.system.refresh(live);
      this.head.gpu = await this.gpu();
      if (fresh && this.tick % WORST_EVERY === 0) await this.followRollouts();
      else if (this.tick === 0 || before.status !== this.run.status) await this.followRollouts();
      if (changed && this.tick % WORST_EVERY === 0) await this.head.exports.files.refresh();
      if (changed) this.tick++;
      fill(this.notice);
    } catch (error) {
      fill(this.notice, errorBox(error));
    }
    this.head.show(this.run, this.charts);
    this.notifier.update(this.run);
  }

  /** What the run's GPU is doing; null without one. @returns {Promise<GpuState | null>} */
  async gpu() {
    if (this.run.status !== "running" || !this.run.slot?.startsWith("cuda")) return null;
    return get(`runs/${this.id}/gpu`);
  }

  async followRollouts() {
    const { worst, marks, diagnosis, insights } = this;
    await Promise.all([worst.refresh(), marks.refresh(), diagnosis.refresh(), insights.refresh()]);
    const { items, total } = await get(`runs/${this.id}/rollouts`, { sort: "-kl_max", limit: 1 });
    this.head.offer(items[0] ?? null, total);
  }

  /** Resumes the run, or shows what has changed since its start. */
  async resume() {
    /** @type {{items: ChangedInput[]}} */
    let changes;
    try {
      changes = await get(`runs/${this.id}/changes`);
    } catch (error) {
      return toast([error.message, error.hint].filter(Boolean).join(". "));
    }
    if (changes.items.length) return this.head.showChanges(changes.items);
    await this.act("resume");
  }

  /** @param {string} action @param {object} [body] */
  async act(action, body) {
    try {
      await send("POST", `runs/${this.id}/${action}`, body);
    } catch (error) {
      toast([error.message, error.hint].filter(Boolean).join(". "));
    }
    await this.refresh();
  }
}
