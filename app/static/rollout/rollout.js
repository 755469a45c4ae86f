// One rollout, token by token: puts text, strip, profile, panel and keys together.
import { query } from "../lib/api.js";
import { debounce, fill, h, link, onFrame, toast } from "../lib/dom.js";
import { failed } from "../lib/panel_states.js";
import { onTheme, remember } from "../lib/theme.js";
import { usePalette } from "../lib/tints.js";
import { placeOf, stateOf, writeAddress } from "./address.js";
import { RolloutHead } from "./head.js";
import { showHelp } from "./help.js";
import { listenKeys } from "./keys.js";
import { Neighbours } from "./neighbours.js";
import { addColumns, openRollout } from "./open.js";
import { Comparison } from "./panels/comparison.js";
import { Detail } from "./panels/detail.js";
import { LossLab } from "./panels/loss_lab.js";
import { OverTime } from "./panels/over_time.js";
import { Side } from "./panels/side.js";
import { WhatIf } from "./panels/what_if.js";
import { RunWorst } from "./run_worst.js";
import { filtersOf } from "./siblings.js";
import { Finder } from "./text/finder.js";
import { METRICS, metricOf, placesOf, reasonAgainst, toFetch, worstFirst } from "./text/metrics.js";
import { Minimap } from "./text/minimap.js";
import { Profile } from "./text/profile.js";
import { paint } from "./text/scale.js";
import { TokenText } from "./text/tokens.js";
import { legend, Toolbar } from "./text/toolbar.js";

const EXTRA = ["student_entropy", "teacher_entropy", "advantages"];

export function preload(params) {
  const { id, other } = placeOf(params);
  for (const name of [id, other]) if (name) openRollout(name).catch(() => {}); // mount shows the error
}

export function mount(root, params) {
  new RolloutPage(root).start(params);
}

class RolloutPage {
  constructor(root) {
    this.root = root;
    this.turn = 0;
    this.pinned = -1;
  }

  start(params) {
    const place = placeOf(params);
    this.state = stateOf(params);
    this.filters = filtersOf(params);
    this.neighbours = new Neighbours(this.filters, place.at);
    usePalette(this.state.palette);
    this.build();
    listenKeys(this);
    onTheme(() => (usePalette(this.state.palette), this.retint()));
    addEventListener("popstate", () => this.fromAddress());
    new ResizeObserver(debounce(60, () => this.resized())).observe(this.text.element);
    this.open(place.id, { ...place, history: "none" });
  }

  get at() {
    return this.neighbours.at;
  }

  build() {
    this.finder = new Finder(this);
    this.head = new RolloutHead((step) => this.sibling(step));
    this.toolbar = new Toolbar(this.state, {
      metric: (key) => this.useMetric(key),
      scale: () => this.retint(),
      palette: (name) => this.usePalette(name),
      underline: (on) => this.useUnderline(on),
      search: (text) => this.finder.search(text),
      next: (step) => this.finder.next(step),
      help: showHelp,
    });
    this.text = new TokenText({
      hover: onFrame((index) => this.hover(index)),
      pick: (index) => this.pin(index ?? -1),
      view: (first, last) => this.viewed(first, last),
    });
    this.comparison = new Comparison(this);
    this.minimap = new Minimap((line) => this.text.centre(line));
    this.profile = new Profile((index) => this.pin(index));
    this.detail = new Detail(this);
    this.side = this.panels();
    this.legend = h("div", { class: "legend" });
    this.view = h(
      "section",
      { id: "token-view", class: "tv", "data-ready": "false" },
      this.text.element,
      this.minimap.element,
    );
    this.body = h("div", { class: "rt-body" }, this.view, this.comparison.element, this.side.element);
    this.foot = h("div", { class: "rt-foot" }, this.legend, this.profile.element);
    const keys = h("p", {
      id: "tv-help",
      class: "offscreen",
      text: "Arrow keys move by token, n and p go through the worst tokens, question mark lists all keys.",
    });
    const toText = (event) => (event.preventDefault(), this.text.element.focus({ preventScroll: true }));
    const skip = link("To the text", "#token-view", { class: "btn skip", onclick: toText });
    fill(
      this.root,
      skip,
      this.head.element,
      this.toolbar.element,
      this.comparison.bar,
      this.body,
      this.foot,
      keys,
    );
  }

  panels() {
    const tabs = [
      ["token", "Token", this.detail],
      ["what-if", "What if", new WhatIf(this)],
      ["over-time", "Over time", new OverTime(this)],
      ["loss-lab", "Loss lab", new LossLab(this)],
    ];
    return new Side(tabs, this.state.tab, (key) => {
      this.state.tab = key;
      this.writeAddress("replace");
    });
  }

  /**
   * Opens a rollout in place. `pos`: the token to pin; `history`: "push", "none" or "replace";
   * `other`: the id of a rollout to compare it with; `keep`: leave text and place as they are where
   * the tokens are the very same ones.
   */
  async open(id, { pos = -1, history = "push", other = null, keep = false } = {}) {
    const turn = ++this.turn;
    const start = performance.now();
    this.view.dataset.ready = "false";
    if (!id)
      return this.fail({
        message: "No rollout is named in the address",
        hint: "Open one from a run’s list of rollouts.",
      });
    let rollout;
    try {
      rollout = await openRollout(id);
    } catch (error) {
      if (turn === this.turn) this.fail(error, () => this.open(id, { pos, history, other }));
      return;
    }
    const metric = this.usable(metricOf(this.state.metric), rollout);
    await addColumns(rollout, toFetch(metric, rollout)).catch(() => {}); // then it shows untinted
    if (turn !== this.turn) return;
    await this.comparison.with(other, rollout, metric);
    if (turn !== this.turn) return;
    this.root.classList.remove("rollout-failed");
    const swapped = keep && this.rollout && sameTokens(rollout, this.rollout);
    this.rollout = rollout;
    this.base = metric;
    this.metric = this.comparison.over(metric);
    this.show(rollout, pos, swapped);
    this.writeAddress(history);
    this.ready(start);
    this.placeInList(rollout, turn);
  }

  fail(error, retry) {
    this.root.classList.add("rollout-failed");
    if (!this.rollout) fill(this.head.path, link("Runs", "./"), h("h1", { text: "Rollout" }));
    this.text.sizer.style.height = "";
    failed(this.text.sizer, error, retry);
    this.text.element.setAttribute("role", "region");
    this.text.drawn.clear();
  }

  show(rollout, pos, swapped) {
    const started = performance.now();
    this.pinned = -1;
    if (swapped) {
      this.text.swap(rollout);
    } else {
      this.finder.forget();
      this.text.clear();
      this.text.show(rollout);
      this.text.element.scrollTop = 0;
    }
    this.comparison.place();
    this.layoutMs = performance.now() - started;
    this.head.show(rollout, this.filters);
    this.side.show(rollout);
    this.retint();
    if (this.toolbar.search.value && !swapped) this.finder.search(this.toolbar.search.value);
    if (pos >= 0 && pos < rollout.n) this.pin(pos, false);
  }

  usable(metric, rollout = this.rollout) {
    const against = (m) => reasonAgainst(m, rollout);
    return against(metric) ? (METRICS.find((m) => !against(m)) ?? metric) : metric;
  }

  /** Tells tests and readers once the frame with the tokens has been painted. */
  ready(start) {
    const { rollout, layoutMs } = this;
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => {
        channel.port1.close();
        if (rollout !== this.rollout) return;
        this.view.dataset.tokens = rollout.n;
        this.view.dataset.rollout = rollout.meta.id;
        this.view.dataset.ready = "true";
        const total = performance.now() - start;
        window.__opd = {
          open: { id: rollout.meta.id, tokens: rollout.n, total, layout: layoutMs, ...rollout.timings },
        };
        setTimeout(() => this.afterwards(rollout), 30);
      };
      channel.port2.postMessage(0);
    });
  }

  retint() {
    if (!this.rollout) return;
    const { rollout, metric, state } = this;
    if (toFetch(metric, rollout).length) return this.untinted();
    this.draw(paint(metric, rollout, state), state.underline);
    this.toolbar.showTop(this.tints.top);
    legend(this.legend, this.tints, state, rollout.meta.temperature);
    this.comparison.tint(
      (shown, other) => paint(shown, other, { ...state, max: this.tints.top }),
      state.underline,
    );
    this.minimap.markPin(this.pinned < 0 ? null : this.text.lineOf(this.pinned));
    this.profile.markPin(this.pinned);
    this.saveScale();
  }

  /** A rollout with no scores at all is shown as bare text. */
  untinted() {
    const n = this.rollout.n;
    const metric = {
      ...this.metric,
      of: () => new Float32Array(n),
      key: "none",
      means: "no scores are stored for this rollout",
    };
    this.metric = metric;
    this.draw(paint(metric, this.rollout, { ...this.state, max: 1 }), false);
    fill(
      this.legend,
      h("span", { class: "muted", text: "This rollout has no scores yet: opd score adds them." }),
    );
  }

  draw(tints, underline) {
    this.tints = tints;
    this.toolbar.offer(this.rollout, this.metric);
    this.minimap.draw(this.text.layout, tints, this.rollout.promptCells.length);
    this.profile.draw(tints);
    this.text.tint(tints, underline);
  }

  resized() {
    if (!this.rollout) return;
    this.text.resized();
    this.comparison.resized();
    this.retint();
  }

  viewed(first, last) {
    if (!this.minimap.unit) return;
    this.minimap.mark(first, last);
    this.profile.mark(this.text.tokenAtLine(first), this.text.tokenAtLine(last + 1));
  }

  hover(index) {
    if (!this.rollout) return;
    const shown = index ?? this.pinned;
    this.side.token(shown, shown === this.pinned);
  }

  /** Pins a token (−1: none); the position goes into the address. */
  pin(index, write = true) {
    this.pinned = index;
    this.text.select(index);
    if (index >= 0) this.text.reveal(index);
    this.side.token(index, index >= 0);
    this.minimap.markPin(index >= 0 ? this.text.lineOf(index) : null);
    this.profile.markPin(index);
    if (write) this.writeAddress("replace");
  }

  /** Goes `step` places down the worst-first order of the shown metric. */
  worst(step) {
    if (!this.rollout.n) return;
    const order = worstFirst(this.metric, this.rollout);
    const place =
      this.pinned < 0 ? (step > 0 ? -1 : 1) : placesOf(this.metric, this.rollout)[this.pinned] - 1;
    this.pin(order[Math.max(0, Math.min(order.length - 1, place + step))]);
  }

  async useMetric(key) {
    const { rollout } = this;
    const metric = this.usable(metricOf(key));
    this.state.metric = key;
    this.base = metric;
    try {
      await addColumns(rollout, toFetch(metric, rollout));
      if (this.comparison.other) await this.comparison.complete(this.comparison.other, metric);
    } catch (error) {
      toast(error.message);
      return;
    }
    if (rollout !== this.rollout || this.state.metric !== key) return;
    this.state.max = 0;
    this.toolbar.max.value = "";
    this.tintBy(null);
    this.detail.again();
    this.writeAddress("replace");
  }

  /** Tints by a metric that is not in the list (a panel's own), until null or another is chosen. */
  tintBy(metric) {
    this.base = this.usable(metricOf(this.state.metric));
    this.metric = metric ?? this.comparison.over(this.base);
    this.retint();
  }

  /** Compares the open rollout with another one of its prompt (null: no longer). */
  async compare(id) {
    await this.comparison.with(id, this.rollout, this.base);
    if (this.comparison.wanted !== id) return;
    this.comparison.place();
    this.tintBy(null);
    this.side.show(this.rollout);
    if (this.pinned >= 0) this.pin(this.pinned, false);
    this.writeAddress("push");
  }

  cycleMetric(step) {
    const usable = METRICS.filter((m) => !reasonAgainst(m, this.rollout));
    const at = usable.indexOf(this.base);
    if (usable.length) this.useMetric(usable[(at + step + usable.length) % usable.length].key);
  }

  usePalette(name) {
    this.state.palette = name;
    remember("palette", name);
    usePalette(name);
    this.retint();
  }

  useUnderline(on) {
    this.state.underline = on;
    remember("underline", on ? "1" : "");
    this.retint();
  }

  async placeInList(rollout, turn) {
    try {
      const [place, total] = await this.neighbours.locate(rollout);
      if (turn === this.turn) this.head.place(place, total);
    } catch {
      this.head.place(null, null); // the text stays readable without its list
    }
  }

  /** Goes `step` places through the worst tokens of the whole run, from rollout to rollout. */
  async worstOfRun(step) {
    const { id } = this.rollout.meta;
    const list = this.worstList();
    try {
      const next = await list.go(step, id, this.pinned);
      if (!next)
        return toast(
          step > 0 ? "These were the worst tokens of the run" : "This is the worst token of the run",
        );
      if (next.rollout_id === id) this.pin(next.position);
      else await this.open(next.rollout_id, { pos: next.position });
      this.head.worst(next.place, next.total);
      await list.prefetch();
    } catch (error) {
      toast(error.message);
    }
  }

  worstList() {
    const { run_id: run } = this.rollout.meta;
    if (this.runWorst?.run !== run) this.runWorst = new RunWorst(run, this.filters);
    return this.runWorst;
  }

  async sibling(step) {
    const id = await this.neighbours.go(step);
    if (id) await this.open(id);
  }

  /** What the panel shows besides, and the rollouts next to this one. */
  async afterwards(rollout) {
    const more = EXTRA.filter((name) => rollout.meta.columns.includes(name) && !rollout.columns[name]);
    await addColumns(rollout, more).catch(() => {}); // the panel goes without them
    if (rollout !== this.rollout) return;
    this.detail.again();
    placesOf(this.metric, rollout); // so that the first n need not sort
    await this.neighbours.prefetch(rollout);
    if (rollout === this.rollout)
      await this.worstList()
        .item(0)
        .catch(() => {}); // told when asked for
  }

  fromAddress() {
    const { id, pos, other, at } = placeOf(query());
    if (at !== null) this.neighbours.at = at;
    if (id !== this.rollout?.meta.id) this.open(id, { pos, other, history: "none" });
    else if (other !== this.comparison.wanted) this.open(id, { pos, other, history: "none", keep: true });
    else this.pin(pos, false);
  }

  writeAddress(how) {
    if (how !== "none" && this.rollout) writeAddress(how, this);
  }

  saveScale = debounce(300, () => this.rollout && this.writeAddress("replace"));
}

function sameTokens(one, two) {
  const equal = (a, b) => a.length === b.length && a.every((id, i) => id === b[i]);
  return equal(one.promptIds, two.promptIds) && equal(one.columns.completion_ids, two.columns.completion_ids);
}
