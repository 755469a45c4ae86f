// Where teacher and student disagree over the whole run: each point leads to its tokens.
import { get } from "../lib/api.js";
import { button, debounce, fill, h, select } from "../lib/dom.js";
import { integer } from "../lib/format.js";
import { empty, failed, loading } from "../lib/panel_states.js";
import { COLUMNS } from "./panels.js";

const LEAST_WAIT = 15; // seconds between two looks while a run trains
const PATIENCE = 30; // and at least so many times what the server took
/** @type {Record<string, string>} */
const KINDS = {
  train: "training",
  eval: "evaluation",
  probe: "probe",
  branch: "what-if",
  import: "imported",
};

export class Insights {
  /** @type {boolean} */
  visible;
  /** @type {boolean} */
  waiting;
  /** @type {boolean} */
  busy;
  /** @type {object} */
  turn;
  /** @type {number} */
  timer;
  /** @type {string} */
  print;
  /** @type {InsightPanel[] | null} */
  drawn;
  /** @type {HTMLElement} */
  all;

  /** @param {string} run */
  constructor(run) {
    this.run = run;
    const params = new URLSearchParams(location.search);
    /** @type {{kind: string | null, min_step: string, max_step: string}} */
    this.part = {
      kind: params.get("kind"),
      min_step: params.get("min_step") ?? "",
      max_step: params.get("max_step") ?? "",
    };
    this.wait = LEAST_WAIT;
    this.last = 0;
    this.bar = h("div", { class: "row insight-bar" });
    this.summary = h("p", { class: "muted insight-summary", role: "status" });
    this.body = h("div", { class: "insight-grid" });
    this.element = h(
      "section",
      { class: "insights", "aria-label": "Disagreement" },
      h("header", { class: "page-bar" }, h("h2", { text: "Disagreement" }), this.summary, this.bar),
      this.body,
    );
    loading(this.body, "the figures");
    new IntersectionObserver((seen) => this.watch(seen[seen.length - 1].isIntersecting), {
      rootMargin: "200px",
    }).observe(this.element);
  }

  /** @param {boolean} visible */
  watch(visible) {
    this.visible = visible;
    if (visible && (!this.last || this.waiting)) this.refresh();
  }

  /** Called when the run has new records: looks again, if it can be seen and not too often. */
  async refresh() {
    this.waiting = true;
    if (!this.visible || document.hidden || this.busy) return;
    const due = this.last + this.wait * 1000 - Date.now();
    clearTimeout(this.timer);
    if (due > 0) this.timer = setTimeout(() => this.refresh(), due);
    else await this.load();
  }

  async load() {
    this.busy = true;
    this.waiting = false;
    const turn = {};
    this.turn = turn;
    try {
      const overview = await get(`runs/${this.run}/insights`);
      if (turn !== this.turn) return;
      if (overview.kinds.length) await this.show(overview, turn);
      else
        empty(
          this.body,
          "No tokens yet",
          "They appear when the first step with stored rollouts finishes (records.every, records.rollouts_per_step).",
        );
    } catch (error) {
      this.drawn = null;
      failed(this.body, error, () => this.load());
    } finally {
      if (turn === this.turn) {
        this.busy = false;
        this.last = Date.now();
      }
    }
  }

  /** @param {{kinds: InsightKind[]}} options @param {object} turn */
  async show({ kinds }, turn) {
    const present = kinds.map((k) => k.kind);
    if (this.part.kind === null || (this.part.kind && !present.includes(this.part.kind)))
      this.part.kind = present.includes("train") ? "train" : present[0];
    this.controls(kinds);
    if (!this.drawn) {
      const columns = COLUMNS.map((list) => list.map((Insight) => new Insight(this)));
      this.drawn = columns.flat();
      fill(
        this.body,
        columns.map((list) =>
          h(
            "div",
            { class: "insight-column" },
            list.map((panel) => panel.element),
          ),
        ),
      );
    }
    let seconds = 0;
    for (const panel of this.drawn) {
      const answer = await panel.refresh();
      if (turn !== this.turn) return;
      seconds += answer?.seconds ?? 0;
      if (answer?.quantity) this.tell(answer);
    }
    this.wait = Math.max(LEAST_WAIT, PATIENCE * seconds);
  }

  /** What every request and every list of tokens is about. */
  get where() {
    const { kind, min_step, max_step } = this.part;
    return { kind: kind || null, min_step: min_step || null, max_step: max_step || null };
  }

  /** @param {InsightKind[]} kinds */
  controls(kinds) {
    const print = JSON.stringify(kinds);
    if (print === this.print) return;
    this.print = print;
    /** @type {Option[]} */
    const all = [
      ["", "Any kind"],
      ...kinds.map((k) => /** @type {Option} */ ([k.kind, KINDS[k.kind] ?? k.kind])),
    ];
    const last = Math.max(...kinds.map((k) => k.max_step));
    /** @param {"min_step" | "max_step"} name @param {string} label */
    const step = (name, label) => {
      const input = h("input", {
        class: "field num small-field",
        type: "number",
        min: "0",
        max: last,
        value: this.part[name],
        "aria-label": label,
        placeholder: label,
      });
      const changed = () => input.validity.valid && this.choose({ [name]: input.value.trim() });
      input.addEventListener("input", debounce(400, changed));
      return input;
    };
    const everything = () => {
      for (const input of this.bar.querySelectorAll("input")) input.value = "";
      this.choose({ min_step: "", max_step: "" });
    };
    this.all = button("All steps", everything, { class: "btn quiet" });
    fill(
      this.bar,
      select(all, this.part.kind ?? "", (kind) => this.choose({ kind }), {
        "aria-label": "Kind of rollouts",
      }),
      step("min_step", "Step from"),
      step("max_step", "to step"),
      this.all,
    );
    this.offerAll();
  }

  /** @param {Query} change */
  choose(change) {
    Object.assign(this.part, change);
    const params = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(this.part)) {
      if (value || name === "kind") params.set(name, value ?? "");
      else params.delete(name);
    }
    history.replaceState(null, "", `${location.pathname}?${params}`);
    this.offerAll();
    this.load();
  }

  offerAll() {
    this.all.hidden = !this.part.min_step && !this.part.max_step;
  }

  /** @param {InsightFacts} insightFacts */
  tell({ counted, rollouts, read, stored, capped, cap, damaged, quantity }) {
    const words = [
      `${integer(counted)} tokens of ${integer(rollouts)} rollouts that count in the loss and were scored by the teacher.`,
      quantity === "log_ratio" &&
        "No reverse KL is stored; KL here means |log p(student) − log p(teacher)| of the sampled token.",
      quantity === "mixed" &&
        "Where no reverse KL is stored, KL means |log p(student) − log p(teacher)| of the sampled token.",
      capped &&
        `An even sample of the run: ${integer(read)} of ${integer(stored)} tokens were read (limit ${integer(cap)}). Choose fewer steps to read all of theirs.`,
      damaged && `${integer(damaged)} damaged ${damaged === 1 ? "record is" : "records are"} skipped.`,
    ];
    this.summary.textContent = words.filter(Boolean).join(" ");
  }
}
