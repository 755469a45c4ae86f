// One rollout, token by token: puts head, text, panels and keys together.
import { query } from "../lib/api.js";
import { debounce, fill, h, link, toast } from "../lib/dom.js";
import { errorBox } from "../lib/panel_states.js";
import { onTheme, remember } from "../lib/theme.js";
import { usePalette } from "../lib/tints.js";
import { choicesOf, targetOf, writeAddress } from "./address.js";
import { RolloutHead } from "./head.js";
import { showHelp } from "./help.js";
import { listenKeys } from "./keys.js";
import { MarkStore } from "./marks/store.js";
import { Navigation } from "./navigation.js";
import { openRollout } from "./open.js";
import { Opener } from "./opener.js";
import { Comparison } from "./panels/comparison.js";
import { Detail } from "./panels/detail.js";
import { LossLab } from "./panels/loss_lab.js";
import { OverTime } from "./panels/over_time.js";
import { SidePanels } from "./panels/side.js";
import { TokenView } from "./panels/token_view.js";
import { WhatIf } from "./panels/what_if.js";
import { filtersOf } from "./rollout_list.js";
import { observable, sameRollout } from "./state.js";
import { countText, Finder, NO_SEARCH } from "./text/finder.js";
import { METRICS } from "./text/metrics.js";
import { deriveMetric, deriveTints, MetricChoice, repaint } from "./text/tinting.js";
import { Toolbar } from "./text/toolbar.js";

/** @param {URLSearchParams} params */
export function preload(params) {
  const { id, other } = targetOf(params);
  for (const name of [id, other]) if (name) openRollout(name).catch(() => {}); // mount shows the error
}

/** @param {HTMLElement} root @param {URLSearchParams} params */
export function mount(root, params) {
  new RolloutPage(root, params).start(targetOf(params));
}

/** @param {ReturnType<typeof choicesOf>} choices @returns {ViewState} */
function firstState(choices) {
  const nothing = { rollout: null, compared: null, loadingOther: false, pinned: -1, pointed: -1, marks: [] };
  const metric = { chosen: METRICS[0], metric: METRICS[0], panelMetric: null, tints: null };
  return { ...nothing, ...metric, search: NO_SEARCH, ...choices };
}

class RolloutPage {
  /** @param {HTMLElement} root @param {URLSearchParams} params */
  constructor(root, params) {
    this.root = root;
    this.filters = filtersOf(params);
    /** @type {ViewStore} */
    const state = observable(firstState(choicesOf(params)));
    this.state = state;
    /** @param {number} index */
    const pin = (index) => this.pin(index);
    /** @param {string | null} id @param {OpenOptions} [options] */
    const open = (id, options = {}) => this.opener.open(id, options);
    /** @param {string | null} id */
    const compare = (id) => this.opener.compare(id);
    this.view = new TokenView(state, { point: (index) => this.point(index), pin });
    const { text } = this.view;
    this.comparison = new Comparison(state, text, { pin, open, end: () => compare(null) });
    this.opener = new Opener(state, this.onOpening());
    this.finder = new Finder(state, pin);
    this.choice = new MetricChoice(state, {
      done: () => this.writeAddress("replace"),
      failed: (error) => this.metricFailed(error),
    });
    this.marks = new MarkStore(state);
    this.detail = new Detail(this.marks);
    this.head = new RolloutHead(
      (step) => this.navigation.sibling(step),
      (reader) => this.read(reader),
      this.marks.changeable ? () => this.mark(null) : null,
    );
    this.toolbar = new Toolbar(state.get(), this.onToolbar());
    /** @param {number} rank @param {number} total */
    const rankOfRun = (rank, total) => this.head.rankOfRun(rank, total);
    const list = { filters: this.filters, at: targetOf(params).at };
    this.navigation = new Navigation(state, text, list, { pin, open, rankOfRun });
    const overTime = new OverTime({ open, compare, settled: () => this.writeAddress("replace") });
    const lossLab = new LossLab((metric) => state.patch({ panelMetric: metric }));
    this.side = new SidePanels(state, {
      token: ["Token", this.detail],
      "what-if": ["What if", new WhatIf()],
      "over-time": ["Over time", overTime],
      "loss-lab": ["Loss lab", lossLab],
    });
  }

  /** @param {ReturnType<typeof targetOf>} target */
  start(target) {
    usePalette(this.state.get().palette);
    this.build();
    this.follow();
    listenKeys(this.keys(), () => this.view.focus());
    onTheme(() => {
      usePalette(this.state.get().palette);
      repaint(this.state);
    });
    addEventListener("popstate", () => this.fromAddress());
    new ResizeObserver(debounce(60, () => this.resized())).observe(this.view.text.element);
    this.opener.open(target.id, { pos: target.pos, other: target.other, history: "none" });
  }

  /** @returns {OpeningActions} */
  onOpening() {
    return {
      start: () => this.view.setReady(false),
      shown: (rollout, history, isNewest) => this.shown(rollout, history, isNewest),
      painted: (rollout, total) => this.view.painted(rollout, total),
      idle: () => {
        this.view.fitSamePrompt();
        this.navigation.prefetch();
        this.marks.refresh();
      },
      compared: () => this.writeAddress("push"),
      failed: (error, retry) => this.failed(error, retry),
    };
  }

  /** @returns {ToolbarActions} */
  onToolbar() {
    return {
      metric: (key) => this.choice.choose(key),
      scale: (changes) => this.state.patch(changes),
      palette: (name) => this.usePalette(name),
      underline: (on) => this.useUnderline(on),
      plain: (on) => this.usePlain(on),
      search: (text) => this.finder.search(text),
      next: (step) => this.finder.next(step),
      help: showHelp,
    };
  }

  build() {
    const keys = h("p", {
      id: "tv-help",
      class: "offscreen",
      text: "Arrow keys move by token, n and p step through the worst tokens, question mark lists all keyboard shortcuts.",
    });
    /** @param {MouseEvent} event */
    const onclick = (event) => {
      event.preventDefault();
      this.view.focus();
    };
    fill(
      this.root,
      link("Skip to the text", "#token-view", { class: "btn skip", onclick }),
      this.head.element,
      this.head.answers.element,
      this.head.teacherPrompt.element,
      this.toolbar.element,
      this.comparison.bar,
      h("div", { class: "rt-body" }, this.view.element, this.comparison.element, this.side.element),
      this.view.foot,
      keys,
    );
  }

  /** What follows the state, in the order in which it must be done: metric, layout, tints, what is drawn. */
  follow() {
    const { state, view } = this;
    this.marks.follow();
    state.subscribe(["marks"], ({ marks }) => this.showMarks(marks));
    deriveMetric(state);
    state.subscribe(["rollout"], (now, before) => this.layOut(now, before));
    state.subscribe(["reader"], (now) => this.layOutPrompt(now));
    this.comparison.followLayout();
    deriveTints(state);
    state.subscribe(["rollout", "pinned"], (now, before) => {
      if (now.pinned !== before.pinned || !sameRollout(now.rollout, before.rollout)) view.reveal(now);
    });
    state.subscribe(["tints", "underline"], (now) => this.draw(now));
    state.subscribe(["pinned"], (now) => view.markPin(now));
    this.comparison.followTints();
    state.subscribe(["search"], ({ search, rollout }) => {
      if (rollout) view.text.markHits(search.tokens, search.matches[search.current]?.[0] ?? -1);
      this.toolbar.showCount(countText(search));
    });
    state.subscribe(["metricKey"], () => this.toolbar.clearMax());
    const saved = debounce(300, () => this.writeAddress("replace"));
    state.subscribe(["max", "gamma", "own"], saved);
    state.subscribe(["tab", "reader"], () => this.writeAddress("replace"));
    this.side.follow();
  }

  keys() {
    const { navigation, choice } = this;
    return {
      ArrowRight: () => navigation.token(1),
      ArrowLeft: () => navigation.token(-1),
      ArrowDown: () => navigation.line(1),
      ArrowUp: () => navigation.line(-1),
      Home: () => navigation.first(),
      End: () => navigation.last(),
      n: () => navigation.worst(1),
      p: () => navigation.worst(-1),
      N: () => navigation.worstOfRun(1),
      P: () => navigation.worstOfRun(-1),
      j: () => navigation.sibling(1),
      k: () => navigation.sibling(-1),
      b: () => this.mark(this.state.get().pinned),
      B: () => this.mark(null),
      t: () => this.read(this.state.get().reader === "teacher" ? "student" : "teacher"),
      m: () => choice.cycle(1),
      M: () => choice.cycle(-1),
      "/": () => this.toolbar.search.focus(),
      "?": showHelp,
      Escape: () => navigation.unpin(),
    };
  }

  /** A token is under the pointer (−1: none). @param {number} index */
  point(index) {
    if (this.state.get().rollout) this.state.patch({ pointed: index });
  }

  /** Pins a token (−1: none); the position goes into the address. @param {number} index */
  pin(index) {
    this.state.patch({ pinned: index, pointed: -1 });
    this.writeAddress("replace");
  }

  /** Opens the note on a token (−1 or null: on the rollout) for typing. @param {number | null} index */
  mark(index) {
    if (!this.state.get().rollout) return;
    this.side.open("token");
    this.pin(index ?? -1);
    this.detail.note.edit();
  }

  /** @param {readonly RolloutMark[]} marks */
  showMarks(marks) {
    this.view.text.markNoted(new Set(marks.map(({ position }) => position ?? -1)));
    this.head.showMarks(marks);
  }

  /** Whose prompt stands above the completion. @param {PromptReader} reader */
  read(reader) {
    this.state.patch({ reader });
  }

  /** @param {Readonly<ViewState>} now */
  layOutPrompt(now) {
    this.head.teacherPrompt.mark(now.reader);
    if (!now.rollout) return;
    this.view.layOutPrompt(now.rollout, now.reader);
    this.draw(now);
  }

  /** @param {Readonly<ViewState>} now @param {Readonly<ViewState>} before */
  layOut({ rollout, search, reader }, { rollout: before }) {
    if (!rollout) return;
    this.root.classList.remove("rollout-failed");
    const isOther = this.view.layOut(rollout, before, reader);
    if (isOther && search.query) this.finder.find(search.query);
    if (!sameRollout(rollout, before)) this.head.show(rollout, this.filters, reader);
  }

  /** @param {Readonly<ViewState>} now */
  draw(now) {
    if (!now.rollout || !now.tints) return;
    this.toolbar.showMetric(now);
    this.view.draw(now);
  }

  resized() {
    if (!this.state.get().rollout) return;
    this.view.text.resized();
    this.comparison.resized();
    repaint(this.state);
    this.view.fitSamePrompt();
  }

  /** @param {Rollout} rollout @param {HistoryChange} history @param {() => boolean} isNewest */
  async shown(rollout, history, isNewest) {
    const { search, pinned } = this.state.get();
    this.writeAddress(history);
    if (pinned < 0 && search.current < 0) this.finder.next(1);
    try {
      const { index, total } = await this.navigation.neighbours.locate(rollout);
      if (isNewest()) this.head.index(index, total);
    } catch {
      this.head.index(null, null); // the text stays readable without its list
    }
  }

  /** @param {ShownError} error @param {() => unknown} [retry] */
  failed(error, retry) {
    this.root.classList.add("rollout-failed");
    this.head.failed();
    this.view.text.notice(errorBox(error, retry));
  }

  /** @param {ShownError} error */
  metricFailed(error) {
    toast(error.message);
    this.toolbar.showMetric(this.state.get());
  }

  /** @param {string} name */
  usePalette(name) {
    remember("palette", name);
    usePalette(name);
    this.state.patch({ palette: name });
  }

  /** @param {boolean} on */
  useUnderline(on) {
    remember("underline", on ? "1" : "");
    this.state.patch({ underline: on });
  }

  /** @param {boolean} on */
  usePlain(on) {
    this.toolbar.showPlain(on);
    this.view.usePlain(on);
    if (!on) this.resized();
  }

  fromAddress() {
    const { id, pos, other, at } = targetOf(query());
    const { rollout, compared } = this.state.get();
    if (at !== null) this.navigation.neighbours.at = at;
    if (id !== rollout?.meta.id || other !== (compared?.id ?? null))
      this.opener.open(id, { pos, other, history: "none" });
    else this.state.patch({ pinned: pos < rollout.n ? pos : -1, pointed: -1 });
  }

  /** @param {HistoryChange} history */
  writeAddress(history) {
    const shown = this.state.get();
    if (history === "none" || !shown.rollout) return;
    writeAddress(history, /** @type {RolloutView} */ (shown), {
      filters: this.filters,
      at: this.navigation.neighbours.at,
    });
  }
}
