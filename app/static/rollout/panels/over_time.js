// The same prompt at other steps and in other runs: a slider over the probe's steps, and lists.
import { get, page } from "../../lib/api.js";
import { button, debounce, fill, h, link } from "../../lib/dom.js";
import { fixed, integer, plain, sum, verdict } from "../../lib/format.js";
import { empty, failed, loading } from "../../lib/panel_states.js";
import { addColumns, openRollout } from "../open.js";
import { word } from "../text/glyphs.js";
import { reasonAgainst, toFetch, unitOf, valuesOf } from "../text/metrics.js";

const MOST = 300; // rollouts of a list
const FRAME = 900; // ms a step is shown while it plays
const AHEAD_TOKENS = 150_000; // fetched before the slider moves, over all steps

export class OverTime {
  /** `view` is the rollout page: its rollout, pinned token, pin(), open(), compare() and tintBy(). */
  constructor(view) {
    this.view = view;
    this.element = h("section", { class: "over-time" });
    this.series = []; // the steps of one completion, this rollout among them
    this.loaded = new Map(); // id → rollout of the series
    this.turn = 0;
    this.index = -1;
    this.slider = h("input", {
      type: "range",
      min: "0",
      step: "1",
      class: "ot-slider",
      "aria-label": "Step",
      oninput: () => (this.stop(), this.go(Number(this.slider.value))),
    });
    this.play = button("Play", () => (this.timer ? this.stop() : this.start()), {
      class: "btn small ot-play",
    });
    this.now = h("output", { class: "ot-now num" });
    this.settled = debounce(250, () => view.writeAddress("replace"));
  }

  show(rollout) {
    const known = this.series.some((item) => item.id === rollout.meta.id);
    this.rollout = rollout;
    if (known) return this.mark();
    this.stop();
    this.load(rollout);
  }

  /** The pinned token's value at each step. */
  token(index) {
    if (index === this.index) return;
    this.index = index;
    if (this.steps?.isConnected) this.drawSteps();
  }

  async load(rollout) {
    const turn = ++this.turn;
    this.series = [];
    this.loaded = new Map();
    loading(this.element, "what else answers this prompt");
    try {
      const found = await get(`rollouts/${rollout.meta.id}/related`, { limit: MOST });
      if (turn !== this.turn) return;
      this.take(rollout, found);
    } catch (error) {
      if (turn === this.turn) failed(this.element, error, () => this.load(rollout));
    }
  }

  take(rollout, found) {
    const probes = found.items.filter((item) => item.kind === "probe");
    const same = probes.filter((item) => item.same_completion);
    const me = { ...rollout.meta, same_completion: true };
    if (me.kind === "probe") same.push(me);
    this.series = same.sort((a, b) => a.step - b.step);
    this.probes = probes;
    this.fresh = found.items.filter((item) => item.kind !== "probe");
    if (me.kind !== "probe") this.fresh.push(me);
    this.fresh.sort((a, b) => a.step - b.step || a.sample - b.sample || (a.id < b.id ? -1 : 1));
    this.total = found.total + 1;
    this.others = found.others;
    this.draw();
    this.fetchAhead(this.turn);
  }

  draw() {
    const { series, fresh, others, probes } = this;
    if (series.length < 2 && fresh.length + others.items.length + probes.length < 2) {
      empty(
        this.element,
        "This prompt was answered once",
        "The setting prompts.probe names held-out prompts that are scored again, and answered anew, at every evaluation; other runs of the same prompts show up here too.",
      );
      return;
    }
    this.steps = h("div", { class: "ot-steps" });
    this.freshBody = h("div");
    this.othersBody = h("div");
    fill(
      this.element,
      series.length > 1 ? this.seriesPart() : this.noSeries(),
      part("New answers, step by step", this.freshBody),
      part("Other runs", this.othersBody),
    );
    this.mark();
  }

  seriesPart() {
    this.slider.max = this.series.length - 1;
    return h(
      "section",
      { class: "ot-part" },
      h("h2", { text: "The same tokens at every evaluation" }),
      h("div", { class: "ot-control" }, this.play, this.slider, this.now),
      this.steps,
    );
  }

  /** Where this completion has no series, the prompt's own one may have. */
  noSeries() {
    const [first] = this.probes;
    if (!first) return null;
    return h(
      "section",
      { class: "ot-part" },
      h("h2", { text: "The same tokens at every evaluation" }),
      h(
        "p",
        { class: "muted" },
        "The first student’s answer to this prompt is scored again at every evaluation: ",
      ),
      h(
        "p",
        {},
        button("Open it", () => this.open(first.id), { class: "btn small" }),
      ),
    );
  }

  /** Shows which step is open, and with what it is compared. */
  mark() {
    if (!this.steps) return;
    const at = this.series.findIndex((item) => item.id === this.rollout.meta.id);
    if (at >= 0) {
      this.slider.value = at;
      this.slider.setAttribute("aria-valuetext", `step ${this.series[at].step}`);
      this.now.textContent = `step ${integer(this.series[at].step)}`;
    }
    this.drawSteps();
    this.drawList(
      this.freshBody,
      this.fresh,
      false,
      this.total - this.fresh.length - this.probes.length - (at >= 0 ? 1 : 0),
    );
    this.drawList(this.othersBody, this.others.items, true, this.others.total - this.others.items.length);
  }

  drawSteps() {
    if (this.series.length < 2) return;
    const { index } = this;
    const metric = this.view.base;
    const withToken = index >= 0 && this.rollout.cells[index] && metric;
    const unit = withToken && unitOf(metric);
    const heads = [["step"], ["KL mean"], ["KL sum"]];
    if (withToken)
      heads.push([
        `“${short(this.rollout.cells[index].raw)}”`,
        `${metric.label}${unit ? `, ${unit}` : ""}, of the chosen token`,
      ]);
    const rows = this.series.map((item, at) => {
      const here = item.id === this.rollout.meta.id;
      const jump = button(integer(item.step), () => (this.stop(), this.go(at)), {
        class: "ot-step num",
        "aria-current": here ? "step" : null,
      });
      return h(
        "tr",
        { class: here ? "here" : "", "data-step": item.step },
        h("td", { class: "r" }, jump),
        value(fixed(item.kl_mean)),
        value(sum(item.kl_sum)),
        withToken && value(this.valueAt(item.id, metric, index)),
        h("td", {}, here ? null : this.compareButton(item)),
      );
    });
    fill(this.steps, table([...heads, [""]], rows, "Steps of the probe"));
  }

  valueAt(id, metric, index) {
    const rollout = this.loaded.get(id);
    if (!rollout || reasonAgainst(metric, rollout) || toFetch(metric, rollout).length) return "–";
    return fixed(valuesOf(metric, rollout)[index]);
  }

  drawList(place, items, across, more) {
    if (!items.length) {
      fill(
        place,
        h("p", {
          class: "muted",
          text: across
            ? "No other run has this prompt, among the newest 200."
            : "This prompt was not answered anew.",
        }),
      );
      return;
    }
    const rows = items.map((item) => this.listRow(item, across));
    const heads = across
      ? [["run"], ["step"], ["KL mean"], [""]]
      : [["step"], ["kind"], ["KL mean"], ["right?"], [""]];
    fill(
      place,
      table(heads, rows, across ? "Rollouts of other runs" : "New answers"),
      more > 0 ? h("p", { class: "muted", text: `${integer(more)} more are not listed here.` }) : null,
    );
  }

  listRow(item, across) {
    const here = item.id === this.rollout.meta.id;
    const open = (text, title) =>
      link(text, page("rollout", { id: item.id, tab: "over-time" }), {
        title,
        onclick: (e) => this.clicked(e, item.id),
      });
    const kind = item.kind === "eval" ? `eval ${item.sample}` : `${item.kind} ${item.sample}`;
    const same = h("td", {}, here ? h("span", { class: "muted", text: "this" }) : this.compareButton(item));
    if (across) {
      const name = plain(item.run_name || item.run_id, 40);
      return h(
        "tr",
        { "data-related": item.id },
        h("td", { class: "clip" }, open(name, name)),
        value(integer(item.step)),
        value(fixed(item.kl_mean)),
        same,
      );
    }
    return h(
      "tr",
      { class: here ? "here" : "", "data-related": item.id },
      h("td", { class: "r" }, open(integer(item.step), `step ${item.step}, sample ${item.sample}`)),
      h("td", { text: kind }),
      value(fixed(item.kl_mean)),
      h("td", { text: verdict(item) || "–" }),
      same,
    );
  }

  compareButton(item) {
    const with_ = this.view.comparison.wanted === item.id;
    const does = item.same_completion ? "difference, token by token" : "side by side";
    return button(with_ ? "Stop" : "Compare", () => this.view.compare(with_ ? null : item.id), {
      class: "btn small quiet",
      title: `${does}`,
      "aria-label": `${with_ ? "Stop comparing" : "Compare"} with step ${item.step}, ${item.kind}, sample ${item.sample}`,
      "aria-pressed": String(with_),
    });
  }

  clicked(event, id) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    this.open(id);
  }

  open(id) {
    this.stop();
    this.view.open(id, { pos: this.view.pinned });
  }

  /** Recolours the text with the values of a step of the series. */
  async go(at) {
    const item = this.series[at];
    if (!item || item.id === this.view.rollout.meta.id) return;
    const { pinned, comparison } = this.view;
    const other = comparison.wanted;
    await this.view.open(item.id, { pos: pinned, history: "none", keep: true, other });
    this.settled();
  }

  start() {
    const last = this.series.length - 1;
    let at = this.series.findIndex((item) => item.id === this.rollout.meta.id);
    if (at >= last) at = -1;
    const next = async () => {
      if (!this.element.isConnected || at >= last) return this.stop();
      at += 1;
      await this.go(at);
      if (this.timer) this.timer = setTimeout(next, FRAME);
    };
    this.play.textContent = "Pause";
    this.timer = 1; // plays, though nothing is due yet
    next();
  }

  stop() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.play.textContent = "Play";
  }

  async fetchAhead(turn) {
    let tokens = 0;
    for (const item of this.series) {
      tokens += item.tokens;
      if (tokens > AHEAD_TOKENS || turn !== this.turn) return;
      const rollout = await openRollout(item.id).catch(() => null);
      if (!rollout) continue;
      const metric = this.view.base;
      if (metric && !reasonAgainst(metric, rollout))
        await addColumns(rollout, toFetch(metric, rollout)).catch(() => {});
      this.loaded.set(item.id, rollout);
    }
    if (turn === this.turn && this.index >= 0) this.drawSteps();
  }
}

function part(title, body) {
  return h("section", { class: "ot-part" }, h("h2", { text: title }), body);
}

function table(heads, rows, label) {
  const head = heads.map(([text, title], i) =>
    h(
      "th",
      { scope: "col", class: i && /KL|“|step/.test(text) ? "r" : text === "step" ? "r" : "", title },
      text,
    ),
  );
  return h(
    "table",
    { class: "ot-table", "aria-label": label },
    h("thead", {}, h("tr", {}, head)),
    h("tbody", {}, rows),
  );
}

function value(text) {
  return h("td", { class: "r num", text });
}

function short(text) {
  const shown = word(text);
  return shown.length > 8 ? `${shown.slice(0, 7)}…` : shown;
}
