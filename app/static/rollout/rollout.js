// One rollout, token by token: puts text, strip, profile, panels and keys together.
import { query } from "../lib/api.js";
import { debounce, fill, h, link, onFrame, toast } from "../lib/dom.js";
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
import { PlainText } from "./panels/plain_text.js";
import { SamePrompt } from "./panels/same_prompt.js";
import { SidePanels } from "./panels/side.js";
import { WhatIf } from "./panels/what_if.js";
import { filtersOf } from "./rollout_list.js";
import { observable, sameRollout } from "./state.js";
import { sameText, shownAs } from "./teachers.js";
import { countText, Finder, NO_SEARCH } from "./text/finder.js";
import { METRICS } from "./text/metrics.js";
import { Minimap } from "./text/minimap.js";
import { Profile } from "./text/profile.js";
import { deriveMetric, deriveTints, MetricChoice, repaint } from "./text/tinting.js";
import { TokenText } from "./text/tokens.js";
import { legend, Toolbar } from "./text/toolbar.js";

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
    this.text = new TokenText({
      hover: onFrame((/** @type {number | null} */ index) => this.point(index ?? -1)),
      pick: (index) => this.pin(index ?? -1),
      view: (first, last) => this.viewed(first, last),
    });
    this.plain = new PlainText();
    this.minimap = new Minimap((line) => this.text.centre(line));
    this.profile = new Profile(pin);
    this.comparison = new Comparison(state, this.text, { pin, open, end: () => compare(null) });
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
    this.navigation = new Navigation(state, this.text, list, { pin, open, rankOfRun });
    const overTime = new OverTime({ open, compare, settled: () => this.writeAddress("replace") });
    const lossLab = new LossLab((metric) => state.patch({ panelMetric: metric }));
    this.side = new SidePanels(state, {
      token: ["Token", this.detail],
      "what-if": ["What if", new WhatIf()],
      "over-time": ["Over time", overTime],
      "loss-lab": ["Loss lab", lossLab],
    });
    this.samePrompt = new SamePrompt(state);
    this.legend = h("div", { class: "legend" });
    this.view = h(
      "section",
      { id: "token-view", class: "tv", "data-ready": "false" },
      h("div", { class: "tv-column" }, this.text.element, this.plain.element, this.samePrompt.element),
      this.minimap.element,
    );
  }

  /** @param {ReturnType<typeof targetOf>} target */
  start(target) {
    usePalette(this.state.get().palette);
    this.build();
    this.follow();
    listenKeys(this.keys(), () => this.focusText());
    onTheme(() => {
      usePalette(this.state.get().palette);
      repaint(this.state);
    });
    addEventListener("popstate", () => this.fromAddress());
    new ResizeObserver(debounce(60, () => this.resized())).observe(this.text.element);
    this.opener.open(target.id, { pos: target.pos, other: target.other, history: "none" });
  }

  /** @returns {OpeningActions} */
  onOpening() {
    return {
      start: () => this.setReady(false),
      shown: (rollout, history, isNewest) => this.shown(rollout, history, isNewest),
      painted: (rollout, total) => this.painted(rollout, total),
      idle: () => {
        this.fitSamePrompt();
        this.navigation.prefetch();
        this.refreshMarks();
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
      this.focusText();
    };
    fill(
      this.root,
      link("Skip to the text", "#token-view", { class: "btn skip", onclick }),
      this.head.element,
      this.head.answers.element,
      this.head.teacherPrompt.element,
      this.toolbar.element,
      this.comparison.bar,
      h("div", { class: "rt-body" }, this.view, this.comparison.element, this.side.element),
      h("div", { class: "rt-foot" }, this.legend, this.profile.element),
      keys,
    );
  }

  /** What follows the state, in the order in which it must be done: metric, layout, tints, what is drawn. */
  follow() {
    const { state, text } = this;
    this.marks.follow();
    state.subscribe(["marks"], ({ marks }) => this.showMarks(marks));
    deriveMetric(state);
    state.subscribe(["rollout"], (now, before) => this.layOut(now, before));
    state.subscribe(["reader"], (now) => this.layOutPrompt(now));
    this.comparison.followLayout();
    deriveTints(state);
    state.subscribe(["rollout", "pinned"], (now, before) => {
      if (now.pinned !== before.pinned || !sameRollout(now.rollout, before.rollout)) this.reveal(now);
    });
    state.subscribe(["tints", "underline"], (now) => this.draw(now));
    state.subscribe(["pinned"], (now) => this.markPin(now));
    this.comparison.followTints();
    state.subscribe(["search"], ({ search, rollout }) => {
      if (rollout) text.markHits(search.tokens, search.matches[search.current]?.[0] ?? -1);
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

  focusText() {
    this.text.element.focus({ preventScroll: true });
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
    this.text.markNoted(new Set(marks.map(({ position }) => position ?? -1)));
    this.head.showMarks(marks);
  }

  refreshMarks() {
    const { rollout } = this.state.get();
    if (rollout) this.marks.refresh(rollout);
  }

  /** Whose prompt stands above the completion. @param {PromptReader} reader */
  read(reader) {
    this.state.patch({ reader });
  }

  /** @param {Readonly<ViewState>} now */
  layOutPrompt(now) {
    this.head.teacherPrompt.mark(now.reader);
    if (!now.rollout) return;
    this.text.again(shownAs(now.rollout, now.reader));
    this.draw(now);
  }

  /** @param {Readonly<ViewState>} view @param {Readonly<ViewState>} options */
  layOut({ rollout, search, reader }, { rollout: before }) {
    if (!rollout) return;
    const started = performance.now();
    this.root.classList.remove("rollout-failed");
    const shown = shownAs(rollout, reader);
    if (!sameRollout(rollout, before)) this.samePrompt.hide(this.text.element);
    if (before && (sameRollout(rollout, before) || sameText(rollout, before, reader))) {
      this.text.swap(shown);
    } else {
      this.text.clear();
      this.text.show(shown);
      this.text.element.scrollTop = 0;
      if (search.query) this.finder.find(search.query);
    }
    if (sameRollout(rollout, before)) return;
    this.layoutMs = performance.now() - started;
    this.head.show(rollout, this.filters, reader);
    this.plain.show(rollout);
  }

  /** @param {Readonly<ViewState>} view */
  reveal({ rollout, pinned }) {
    if (!rollout) return;
    this.text.select(pinned);
    if (pinned >= 0) this.text.reveal(pinned);
  }

  /** @param {Readonly<ViewState>} view */
  markPin({ rollout, tints, pinned }) {
    if (!rollout || !tints) return;
    this.minimap.markPin(pinned < 0 ? null : this.text.lineOf(pinned));
    this.profile.markPin(pinned);
  }

  /** @param {Readonly<ViewState>} now */
  draw(now) {
    const { rollout, tints, gamma, underline } = now;
    if (!rollout || !tints) return;
    this.toolbar.showMetric(now);
    legend(this.legend, tints, gamma, rollout.meta.temperature);
    this.minimap.draw(this.text.layout, tints, this.text.prompt);
    this.profile.draw(tints);
    this.text.tint(tints, underline && tints.metric.key !== "none");
    this.markPin(now);
  }

  resized() {
    if (!this.state.get().rollout) return;
    this.text.resized();
    this.comparison.resized();
    repaint(this.state);
    this.fitSamePrompt();
  }

  /** @param {number} first @param {number} last */
  viewed(first, last) {
    if (!this.minimap.unit) return;
    this.minimap.mark(first, last);
    this.profile.mark(this.text.tokenAtLine(first), this.text.tokenAtLine(last + 1));
  }

  /** @param {boolean} ready */
  setReady(ready) {
    this.view.dataset.ready = String(ready);
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

  fitSamePrompt() {
    const { rollout } = this.state.get();
    if (rollout && !this.text.element.hidden)
      this.samePrompt.fit(rollout, this.text.element, this.text.sizer.offsetHeight);
  }

  /**
   * Tells tests and readers that the tokens are on the screen.
   * @param {Rollout} rollout @param {number} total
   */
  painted(rollout, total) {
    const { meta, n, timings } = rollout;
    Object.assign(this.view.dataset, { tokens: String(n), rollout: meta.id });
    this.setReady(true);
    window.__opd = { open: { id: meta.id, tokens: n, total, layout: this.layoutMs, ...timings } };
  }

  /** @param {ShownError} error @param {() => unknown} [retry] */
  failed(error, retry) {
    this.root.classList.add("rollout-failed");
    this.head.failed();
    this.text.notice(errorBox(error, retry));
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
    this.plain.toggle(on, [this.text.element, this.minimap.element]);
    if (on) this.samePrompt.hide(this.text.element);
    else this.resized();
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
