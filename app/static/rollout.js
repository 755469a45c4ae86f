// One rollout, token by token: puts text, strip, profile, panel and keys together.
import { page } from "./api.js";
import { Detail } from "./detail.js";
import { debounce, fill, h, link, onFrame, toast } from "./dom.js";
import { failed } from "./faces.js";
import { RolloutHead } from "./rollout_head.js";
import { listenKeys } from "./rollout_keys.js";
import { METRICS, metricOf, placesOf, reasonAgainst, toFetch, worstFirst } from "./metrics.js";
import { Minimap } from "./minimap.js";
import { addColumns, openRollout } from "./open.js";
import { usePalette } from "./palette.js";
import { Profile } from "./profile.js";
import { GAMMA, paint } from "./scale.js";
import { findAll, tokensOf } from "./search.js";
import { LossLab } from "./loss_lab.js";
import { OverTime } from "./over_time.js";
import { Siblings, filtersOf } from "./siblings.js";
import { Side } from "./side.js";
import { onTheme, recall, remember } from "./theme.js";
import { TokenText } from "./tokens.js";
import { Toolbar, legend } from "./toolbar.js";
import { showHelp } from "./help.js";
import { WhatIf } from "./what_if.js";

const EXTRA = ["student_entropy", "teacher_entropy", "advantages"];

export function preload(params) {
  if (params.get("id")) openRollout(params.get("id")).catch(() => {}); // mount shows the error
}

export function mount(root, params) {
  new RolloutPage(root).start(params);
}

class RolloutPage {
  constructor(root) {
    this.root = root;
    this.turn = 0;
    this.pinned = -1;
    this.matches = [];
    this.match = -1;
  }

  start(params) {
    this.state = {
      metric: params.get("metric") ?? "reverse_kl",
      max: Number(params.get("max")) || 0,
      gamma: Math.min(2, Math.max(0.2, Number(params.get("gamma")) || GAMMA)),
      own: params.get("scale") === "own",
      tab: params.get("tab") ?? "token",
      palette: recall("palette", "oranges"),
      underline: recall("underline", "") === "1",
    };
    this.filters = filtersOf(params);
    this.at = params.get("at") === null ? null : Number(params.get("at"));
    usePalette(this.state.palette);
    this.build();
    listenKeys(this);
    onTheme(() => (usePalette(this.state.palette), this.retint()));
    addEventListener("popstate", () => this.fromAddress());
    new ResizeObserver(debounce(60, () => this.resized())).observe(this.text.element);
    this.open(params.get("id"), { pos: positionOf(params), history: "none" });
  }

  build() {
    this.head = new RolloutHead((step) => this.sibling(step));
    this.toolbar = new Toolbar(this.state, {
      metric: (key) => this.useMetric(key),
      scale: () => this.retint(),
      palette: (name) => this.usePalette(name),
      underline: (on) => this.useUnderline(on),
      search: (query) => this.search(query),
      next: (step) => this.nextMatch(step),
      help: showHelp,
    });
    this.text = new TokenText({
      hover: onFrame((index) => this.hover(index)),
      pick: (index) => this.pin(index ?? -1),
      view: (first, last) => this.viewed(first, last),
    });
    this.minimap = new Minimap((line) => this.text.centre(line));
    this.profile = new Profile((index) => this.pin(index));
    this.detail = new Detail(this);
    const tabs = [
      ["token", "Token", this.detail], ["what-if", "What if", new WhatIf(this)],
      ["over-time", "Over time", new OverTime(this)], ["loss-lab", "Loss lab", new LossLab(this)],
    ];
    this.side = new Side(tabs, this.state.tab, (key) => {
      this.state.tab = key;
      this.writeAddress("replace");
    });
    this.legend = h("div", { class: "legend" });
    this.view = h(
      "section", { id: "token-view", class: "tv", "data-ready": "false" }, this.text.element, this.minimap.element,
    );
    this.body = h("div", { class: "rt-body" }, this.view, this.side.element);
    this.foot = h("div", { class: "rt-foot" }, this.legend, this.profile.element);
    const keys = h("p", {
      id: "tv-help", class: "offscreen",
      text: "Arrow keys move by token, n and p go through the worst tokens, question mark lists all keys.",
    });
    fill(this.root, this.head.element, this.toolbar.element, this.body, this.foot, keys);
  }

  /** Opens a rollout in place; `history` is "push", "none" or "replace". */
  async open(id, { pos = -1, history = "push" } = {}) {
    const turn = ++this.turn;
    const start = performance.now();
    this.view.dataset.ready = "false";
    if (!id) return this.fail({ message: "No rollout is named in the address", hint: "Open one from a run’s list of rollouts." });
    let rollout;
    try {
      rollout = await openRollout(id);
    } catch (error) {
      if (turn === this.turn) this.fail(error, () => this.open(id, { pos, history }));
      return;
    }
    const metric = this.usable(metricOf(this.state.metric), rollout);
    await addColumns(rollout, toFetch(metric, rollout)).catch(() => {}); // then it shows untinted
    if (turn !== this.turn) return;
    this.root.classList.remove("rollout-failed");
    this.rollout = rollout;
    this.metric = metric;
    this.show(rollout, pos);
    this.writeAddress(history);
    this.ready(start);
    this.placeInList(rollout, turn);
  }

  fail(error, retry) {
    this.root.classList.add("rollout-failed");
    if (!this.rollout) fill(this.head.path, link("Runs", "./"), h("h1", { text: "Rollout" }));
    this.text.sizer.style.height = "";
    failed(this.text.sizer, error, retry);
    this.text.drawn.clear();
  }

  show(rollout, pos) {
    const started = performance.now();
    this.matches = [];
    this.text.sizer.replaceChildren();
    this.text.drawn.clear();
    this.text.selected = -1;
    this.text.hits = new Set();
    this.text.show(rollout);
    this.layoutMs = performance.now() - started;
    this.pinned = -1;
    this.head.show(rollout, this.filters);
    this.side.show(rollout);
    this.text.element.scrollTop = 0;
    this.retint();
    if (this.toolbar.search.value) this.search(this.toolbar.search.value);
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
        if (rollout !== this.rollout) return;
        this.view.dataset.tokens = rollout.n;
        this.view.dataset.rollout = rollout.meta.id;
        this.view.dataset.ready = "true";
        const total = performance.now() - start;
        window.__opd = { open: { id: rollout.meta.id, tokens: rollout.n, total, layout: layoutMs, ...rollout.timings } };
        setTimeout(() => this.afterwards(rollout), 30);
      };
      channel.port2.postMessage(0);
    });
  }

  retint() {
    if (!this.rollout) return;
    const { rollout, metric, state } = this;
    if (toFetch(metric, rollout).length) return this.untinted();
    this.tints = paint(metric, rollout, state);
    this.toolbar.offer(rollout, metric);
    this.toolbar.showTop(this.tints.top);
    this.minimap.draw(this.text.layout, this.tints, rollout.promptCells.length);
    this.profile.draw(this.tints);
    legend(this.legend, this.tints, state, rollout.meta.temperature);
    this.text.tint(this.tints, state.underline);
    this.minimap.markPin(this.pinned < 0 ? null : this.text.lineOf(this.pinned));
    this.profile.markPin(this.pinned);
    this.saveScale();
  }

  /** A rollout with no scores at all is shown as bare text. */
  untinted() {
    const n = this.rollout.n;
    const metric = { ...this.metric, of: () => new Float32Array(n), key: "none", means: "no scores are stored for this rollout" };
    this.metric = metric;
    this.tints = paint(metric, this.rollout, { ...this.state, max: 1 });
    this.toolbar.offer(this.rollout, metric);
    this.minimap.draw(this.text.layout, this.tints, this.rollout.promptCells.length);
    this.profile.draw(this.tints);
    fill(this.legend, h("span", { class: "muted", text: "This rollout has no scores yet: opd score adds them." }));
    this.text.tint(this.tints, false);
  }

  resized() {
    if (!this.rollout) return;
    this.text.resized();
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
    if (index >= 0) {
      this.text.reveal(index);
      this.side.token(index, true);
      this.minimap.markPin(this.text.lineOf(index));
    } else {
      this.side.token(-1, false);
      this.minimap.markPin(null);
    }
    this.profile.markPin(index);
    if (write) this.writeAddress("replace");
  }

  /** Goes `step` places down the worst-first order of the shown metric. */
  worst(step) {
    const order = worstFirst(this.metric, this.rollout);
    const place = this.pinned < 0 ? (step > 0 ? -1 : 1) : placesOf(this.metric, this.rollout)[this.pinned] - 1;
    this.pin(order[Math.max(0, Math.min(order.length - 1, place + step))]);
  }

  async useMetric(key) {
    const { rollout } = this;
    const metric = this.usable(metricOf(key));
    this.state.metric = key;
    try {
      await addColumns(rollout, toFetch(metric, rollout));
    } catch (error) {
      toast(error.message);
      return;
    }
    if (rollout !== this.rollout || this.state.metric !== key) return;
    this.metric = metric;
    this.state.max = 0;
    this.toolbar.max.value = "";
    this.retint();
    if (this.pinned >= 0) this.detail.header(this.pinned);
    this.writeAddress("replace");
  }

  /** Tints by a metric that is not in the list (a panel's own), until null or another is chosen. */
  tintBy(metric) {
    this.metric = metric ?? this.usable(metricOf(this.state.metric));
    this.retint();
  }

  cycleMetric(step) {
    const usable = METRICS.filter((m) => !reasonAgainst(m, this.rollout));
    const at = usable.indexOf(this.metric);
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

  search(query) {
    this.matches = findAll(this.rollout, query);
    this.match = -1;
    this.text.mark(tokensOf(this.matches), -1);
    this.toolbar.showCount(query ? `${this.matches.length} found` : "");
    if (this.matches.length) this.nextMatch(1);
  }

  nextMatch(step) {
    const count = this.matches.length;
    if (!count) return;
    this.match = (this.match + step + count) % count;
    const index = this.matches[this.match][0];
    this.text.mark(this.text.hits, index);
    this.toolbar.showCount(`${this.match + 1} of ${count}`);
    this.pin(index);
  }

  async placeInList(rollout, turn) {
    const run = rollout.meta.run_id;
    if (!this.siblings || this.siblings.run !== run) this.siblings = new Siblings(run, this.filters, this.at);
    try {
      const place = await this.siblings.locate(rollout.meta.id);
      if (turn === this.turn) this.head.place(place, this.siblings.total);
    } catch {
      this.head.place(null, null); // the text stays readable without its list
    }
  }

  async sibling(step) {
    if (!this.siblings) return;
    const at = (this.siblings.at ?? -1) + step;
    const row = await this.siblings.row(at).catch(() => null);
    if (!row) return;
    this.siblings.at = at;
    this.at = at;
    await this.open(row.id);
  }

  /** What the panel shows besides, and the rollouts next to this one. */
  async afterwards(rollout) {
    const more = EXTRA.filter((name) => rollout.meta.columns.includes(name) && !rollout.columns[name]);
    await addColumns(rollout, more).catch(() => {}); // the panel goes without them
    if (rollout !== this.rollout) return;
    this.detail.again();
    placesOf(this.metric, rollout); // so that the first n need not sort
    await this.prefetchNeighbours();
  }

  async prefetchNeighbours() {
    const { siblings } = this;
    if (!siblings || siblings.at === null || this.rollout.n > 50_000) return;
    for (const step of [1, -1]) {
      const row = await siblings.row(siblings.at + step).catch(() => null);
      if (row && row.tokens <= 4096) await openRollout(row.id).catch(() => {}); // shown when opened
    }
  }

  fromAddress() {
    const params = new URLSearchParams(location.search);
    const id = params.get("id");
    if (params.get("at") !== null && this.siblings) this.siblings.at = this.at = Number(params.get("at"));
    if (id !== this.rollout?.meta.id) this.open(id, { pos: positionOf(params), history: "none" });
    else this.pin(positionOf(params), false);
  }

  writeAddress(how) {
    if (how === "none") return;
    const { state } = this;
    const params = {
      id: this.rollout.meta.id,
      pos: this.pinned >= 0 ? this.pinned : null,
      metric: state.metric === "reverse_kl" ? null : state.metric,
      max: state.max || null,
      gamma: state.gamma === GAMMA ? null : state.gamma,
      scale: state.own ? "own" : null,
      tab: state.tab === "token" ? null : state.tab,
      ...this.filters,
      at: this.siblings?.at ?? this.at,
    };
    const method = how === "push" ? "pushState" : "replaceState";
    history[method](null, "", page("rollout", params));
  }

  saveScale = debounce(300, () => this.rollout && this.writeAddress("replace"));
}

function positionOf(params) {
  const pos = params.get("pos");
  return pos === null || !/^\d+$/.test(pos) ? -1 : Number(pos);
}
