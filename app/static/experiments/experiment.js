// One experiment: its question, result, curves, tuning and runs, live and afterwards.
import { get, page, query, send } from "../lib/api.js";
import { fill, h, poll, scrollBox, toast } from "../lib/dom.js";
import { isLive, plain } from "../lib/format.js";
import { MemoView } from "../lib/memo_view.js";
import { errorBox, failed, loading } from "../lib/panel_states.js";
import { ExperimentChart } from "./chart.js";
import { ExperimentHead, runsOf } from "./head.js";
import { hasTuning, runTable, shownOfRuns, shownOfTuning, tuningTable } from "./runs.js";
import { resultTable, shownInTable } from "./table.js";
import { texts } from "./texts.js";

const LIVE = 3000; // ms

/** @param {HTMLElement} root @param {URLSearchParams} params */
export function mount(root, params) {
  new ExperimentPage(root, params).start();
}

class ExperimentPage {
  /** @type {ExperimentHead} */
  head;
  /** @type {ExperimentChart} */
  chart;
  /** @type {MemoView} */
  result;
  /** @type {MemoView} */
  tuning;
  /** @type {MemoView} */
  runs;
  /** @type {MemoView} */
  texts;
  /** @type {MemoView} */
  notice;
  /** @type {HTMLElement} */
  tuningPanel;
  /** @type {boolean} */
  live;
  /** @type {boolean} */
  acting;

  /** @param {HTMLElement} root @param {URLSearchParams} params */
  constructor(root, params) {
    this.root = root;
    this.id = params.get("id") ?? "";
    this.path = `experiments/${encodeURIComponent(this.id)}`;
    this.x = params.get("x") ?? "";
    this.turn = 0;
  }

  /** @returns {Promise<unknown>} */
  async start() {
    document.title = "Experiment · OPD Studio";
    if (!this.id) {
      const error = {
        message: "The address names no experiment",
        hint: "Open one from the list of experiments.",
      };
      return fill(this.root, errorBox(error));
    }
    loading(this.root, "the experiment");
    let experiment;
    try {
      experiment = await this.read();
    } catch (error) {
      return failed(this.root, error, () => this.start());
    }
    this.build();
    this.show(experiment);
    poll(LIVE, () => (this.live ? this.refresh() : this.head.showTime()));
  }

  /** @returns {Promise<Experiment>} */
  read() {
    return get(this.path);
  }

  build() {
    /** @param {string} label @param {MemoView} part */
    const panel = (label, part) =>
      h(
        "section",
        { class: "panel", "aria-label": label },
        h("header", {}, h("h2", { text: label })),
        part.element,
      );
    /** @param {string} kind */
    const part = (kind) => new MemoView(h("div", { class: kind }));
    this.head = new ExperimentHead({ cancel: () => this.act("cancel"), resume: () => this.act("resume") });
    this.chart = new ExperimentChart(this.x, (x) => this.keep(x));
    this.result = new MemoView(scrollBox("Result"));
    this.tuning = new MemoView(scrollBox("Tuning"));
    this.runs = new MemoView(scrollBox("Runs"));
    this.texts = part("panel exp-texts");
    this.tuningPanel = panel("Tuning", this.tuning);
    this.notice = part("notice");
    fill(
      this.root,
      this.head.element,
      this.notice.element,
      h(
        "div",
        { class: "exp-body" },
        h("section", { class: "panel", "aria-label": "Result" }, this.result.element),
        h("div", { class: "exp-columns" }, this.chart.element, this.texts.element),
        panel("Runs", this.runs),
        this.tuningPanel,
      ),
    );
  }

  /** The axis belongs to the address; the usual one is left out. @param {string} x */
  keep(x) {
    const kept = Object.fromEntries(query());
    history.replaceState(null, "", page("experiment", { ...kept, x: x === "step" ? "" : x }));
  }

  async refresh() {
    const turn = ++this.turn;
    let experiment;
    try {
      experiment = await this.read();
    } catch (error) {
      if (turn === this.turn) this.notice.show(error.message, () => errorBox(error));
      return;
    }
    if (turn !== this.turn) return; // requested again since: this may be from before a resume
    this.notice.show("", () => []);
    this.show(experiment);
  }

  /** @param {Experiment} experiment */
  show(experiment) {
    this.live = [experiment, ...runsOf(experiment)].some((one) => isLive(one.status)); // a run saves before it stops
    document.title = `${plain(experiment.title || experiment.name, 60)} · OPD Studio`;
    this.head.show(experiment);
    this.result.show(shownInTable(experiment), () => resultTable(experiment));
    this.chart.show(experiment);
    this.texts.show([experiment.claim, experiment.published, experiment.shows, experiment.limits], () =>
      texts(experiment, "h2"),
    );
    this.tuningPanel.hidden = !hasTuning(experiment);
    this.tuning.show(shownOfTuning(experiment), () => tuningTable(experiment));
    this.runs.show(shownOfRuns(experiment), () => runTable(experiment));
  }

  /** @param {string} action */
  async act(action) {
    if (this.acting) return; // the button was clicked twice
    this.acting = true;
    try {
      await send("POST", `${this.path}/${action}`);
    } catch (error) {
      toast([error.message, error.hint].filter(Boolean).join(". "));
    }
    await this.refresh();
    this.acting = false;
  }
}
