// Runs side by side: curves over cost, cost to reach a threshold, differences of configuration.
import { address, get, page } from "../lib/api.js";
import { fill, h, link, poll, scrollBox } from "../lib/dom.js";
import { integer, isLive } from "../lib/format.js";
import { empty, errorBox, loading } from "../lib/panel_states.js";
import { CompareCharts } from "./chart.js";
import { Controls, DEFAULTS, MOST, NAMES } from "./controls.js";
import { Picker } from "./picker.js";
import { Prompts } from "./prompts.js";
import { differenceTable, reachTable, runTable } from "./tables.js";

const LIVE = 2000; // ms

/** @param {HTMLElement} root @param {URLSearchParams} params */
export function mount(root, params) {
  document.title = "Compare · OPD Studio";
  new ComparePage(root, params).start();
}

class ComparePage {
  /** @type {Controls} */
  controls;
  /** @type {Picker} */
  picker;
  /** @type {CompareCharts} */
  charts;
  /** @type {Prompts} */
  prompts;
  /** @type {HTMLElement} */
  count;
  /** @type {HTMLAnchorElement} */
  csv;
  /** @type {HTMLElement} */
  notice;
  /** @type {HTMLElement} */
  body;
  /** @type {HTMLElement} */
  table;
  /** @type {HTMLElement} */
  reach;
  /** @type {HTMLElement} */
  differences;
  /** @type {string} */
  print;
  /** @type {boolean} */
  built;
  /** @type {boolean} */
  live;

  /** @param {HTMLElement} root @param {URLSearchParams} params */
  constructor(root, params) {
    this.root = root;
    const runs = (params.get("runs") ?? "").split(",").filter(Boolean);
    this.runs = [...new Set(runs)].slice(0, MOST);
    /** @type {CompareState} */
    this.state = { ...DEFAULTS };
    for (const name of NAMES) this.state[name] = params.get(name) ?? DEFAULTS[name];
    this.turn = 0;
  }

  start() {
    this.controls = new Controls(this.state, (change) => this.change(change));
    this.picker = new Picker(
      (id) => this.choose([...this.runs, id]),
      () => this.runs,
    );
    this.charts = new CompareCharts();
    this.prompts = new Prompts();
    this.count = h("span", { class: "muted num" });
    this.csv = link("CSV", "", { class: "btn", download: "compare.csv", id: "compare-csv" });
    this.notice = h("div");
    this.body = h("div", { class: "cmp-body" });
    const bar = h(
      "div",
      { class: "page-bar" },
      h("h1", { text: "Compare" }),
      this.count,
      h("span", { class: "spacer" }),
      this.picker.element,
      this.csv,
    );
    fill(this.root, bar, this.notice, this.body);
    this.choose(this.runs);
    poll(LIVE, () => this.live && this.refresh());
  }

  /** @param {string[]} runs */
  choose(runs) {
    this.runs = runs.slice(0, MOST);
    if (!this.runs.includes(this.state.baseline)) this.state.baseline = "";
    this.controls.show(this.state);
    this.csv.hidden = this.runs.length === 0;
    this.count.textContent = this.runs.length ? `${integer(this.runs.length)} of at most ${MOST}` : "";
    this.picker.changed();
    this.keep();
    if (!this.runs.length) return this.drawEmpty();
    if (!this.built) loading(this.body, "the runs");
    this.prompts.show(this.runs);
    this.refresh();
  }

  /** @param {Partial<CompareState>} change */
  change(change) {
    Object.assign(this.state, change);
    this.controls.show(this.state);
    this.keep();
    if (this.runs.length) this.refresh();
  }

  /** The address holds everything that was chosen; what is as by default is left out. */
  keep() {
    const chosen = NAMES.filter((name) => this.state[name] !== DEFAULTS[name]);
    const settings = Object.fromEntries(chosen.map((name) => [name, this.state[name]]));
    const query = page("compare", { runs: this.runs.join(","), ...settings });
    history.replaceState(null, "", query.replaceAll("%2C", ","));
    this.csv.href = address("compare.csv", this.request());
  }

  request() {
    const s = this.state;
    return {
      runs: this.runs.join(","),
      x: s.x,
      metric: s.y,
      second: s.second === "none" ? "" : s.second,
      smoothing: s.smooth,
      target: s.target,
      direction: s.direction,
      baseline: s.baseline,
      band: s.band,
      interpolate: s.interpolate === "1" ? "true" : "",
    };
  }

  async refresh() {
    const turn = ++this.turn;
    /** @type {Comparison} */
    let comparison;
    try {
      comparison = await get("compare", this.request());
    } catch (error) {
      if (turn === this.turn) this.fail(error);
      return;
    }
    if (turn !== this.turn || !this.runs.length) return;
    fill(this.notice);
    this.live = comparison.runs.some((run) => isLive(run.status));
    const print = JSON.stringify(comparison) + JSON.stringify(this.state);
    if (print === this.print && this.built) return;
    this.print = print;
    this.draw(comparison);
  }

  /**
   * What was drawn before stays; a run that is gone, or a value that is refused, can be mended.
   * @param {ShownError} error
   */
  fail(error) {
    const gone = this.runs.includes(error.where ?? "");
    if (gone) error.hint = "It may have been deleted; remove it from the comparison.";
    const drop =
      gone &&
      h(
        "button",
        {
          type: "button",
          class: "btn",
          onclick: () => this.choose(this.runs.filter((id) => id !== error.where)),
        },
        `Compare without ${error.where}`,
      );
    fill(this.notice, errorBox(error, gone ? null : () => this.refresh()), drop);
    if (!this.built) fill(this.body);
  }

  /** @param {Comparison} comparison */
  draw(comparison) {
    this.controls.offer(comparison);
    if (!this.built) this.build();
    fill(
      this.table,
      runTable(comparison, (id) => this.choose(this.runs.filter((other) => other !== id))),
    );
    this.charts.draw(comparison, this.state);
    fill(
      this.reach,
      reachTable(comparison, this.state, (baseline) => this.change({ baseline })),
    );
    fill(this.differences, differenceTable(comparison));
  }

  build() {
    this.built = true;
    /** @param {string} label @param {...Child} inside */
    const panel = (label, ...inside) => h("section", { class: "panel", "aria-label": label }, inside);
    this.table = scrollBox("Runs");
    this.reach = scrollBox("Cost of a score");
    this.differences = scrollBox("Differences");
    fill(
      this.body,
      panel("Runs", this.table),
      this.controls.element,
      this.charts.element,
      panel("Steps to reach", this.controls.threshold, this.reach),
      panel("Differences", h("header", {}, h("h2", { text: "Configuration differences" })), this.differences),
      this.prompts.element,
    );
  }

  drawEmpty() {
    this.built = false;
    this.live = false;
    this.turn++;
    fill(this.notice);
    empty(
      this.body,
      "No runs selected",
      `Select up to ${MOST}: here by name, or with the checkboxes on the Runs page.`,
      h("div", { class: "row" }, link("Go to Runs", "./", { class: "btn" })),
    );
    this.picker.suggest(this.body);
  }
}
