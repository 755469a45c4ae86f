// Experiments: what can be run, and what was run or is running.
import { get, newKey, page, query, send } from "../lib/api.js";
import { button, fill, h, poll, toast } from "../lib/dom.js";
import { integer, now } from "../lib/format.js";
import { MemoView } from "../lib/memo_view.js";
import { empty, failed, loading } from "../lib/panel_states.js";
import { offerTable } from "./offers.js";
import { outcomeOf, pastTable } from "./past.js";

const PAGE = 20;
const LIVE = 2000; // ms

/** @param {HTMLElement} root @param {URLSearchParams} params */
export function mount(root, params) {
  document.title = "Experiments · OPD Studio";
  new ExperimentsPage(root, params).start();
}

class ExperimentsPage {
  /** @type {MemoView} */
  offers;
  /** @type {MemoView} */
  past;
  /** @type {HTMLElement} */
  count;
  /** @type {HTMLElement} */
  problem;
  /** @type {HTMLElement} */
  pager;
  /** @type {ExperimentDefinition[]} */
  items;
  /** @type {boolean} */
  reading;

  /** @param {HTMLElement} root @param {URLSearchParams} params */
  constructor(root, params) {
    this.root = root;
    this.opened = params.get("open") ?? "";
    this.offset = Math.max(0, Number(params.get("offset")) || 0);
    /** @type {Map<string, string>} */
    this.outcomes = new Map(); // id of a finished one → what came out
    /** @type {Map<string, string>} */
    this.keys = new Map(); // what is started → its key, so that another try starts no second one
  }

  start() {
    this.offers = new MemoView(h("div", { class: "scroll-x" }));
    this.past = new MemoView(h("div", { class: "scroll-x" }));
    this.count = h("span", { class: "muted num" });
    this.problem = h("span", { class: "bad-text", role: "status" });
    this.pager = h("div", { class: "pager", hidden: true });
    /** @param {string} text @param {...Child} more */
    const head = (text, ...more) => h("header", {}, h("h2", { text }), more);
    fill(
      this.root,
      h(
        "div",
        { class: "page-bar" },
        h("h1", { text: "Experiments" }),
        h("span", { class: "muted", text: "Published claims, each tested with several arms and seeds" }),
      ),
      h(
        "section",
        { class: "panel exp-panel", "aria-label": "Available experiments" },
        head("Available experiments"),
        this.offers.element,
      ),
      h(
        "section",
        { class: "panel exp-panel", "aria-label": "Past runs" },
        head("Past runs", this.count, this.problem),
        this.past.element,
        this.pager,
      ),
    );
    loading(this.offers.element, "the experiments");
    loading(this.past.element, "past runs");
    addEventListener("pageshow", (event) => event.persisted && this.again());
    this.readOffers();
    this.refresh();
    poll(LIVE, () => this.refresh());
  }

  /** @returns {Promise<unknown>} */
  async readOffers() {
    try {
      this.items = (await get("experiment-definitions")).items;
    } catch (error) {
      return failed(this.offers.element, error, () => this.readOffers());
    }
    this.drawOffers();
  }

  drawOffers() {
    /** @type {OfferActions} */
    const on = {
      start: (item, quick, start) => this.begin(item, quick, start),
      toggle: (name) => this.toggle(name),
    };
    this.offers.show([this.items, this.opened], () => offerTable(this.items, this.opened, on));
  }

  /** @param {string} name */
  toggle(name) {
    this.opened = this.opened === name ? "" : name;
    this.keep({ open: this.opened });
    this.drawOffers();
  }

  /** @param {Query} change */
  keep(change) {
    history.replaceState(null, "", page("experiments", { ...Object.fromEntries(query()), ...change }));
  }

  /** @param {ExperimentDefinition} item @param {boolean} quick @param {HTMLButtonElement} start */
  async begin(item, quick, start) {
    start.disabled = true; // a second click would leave the page twice
    const kind = `${item.name} ${quick}`;
    if (!this.keys.has(kind)) this.keys.set(kind, newKey());
    try {
      const { id } = await send("POST", "experiments", {
        name: item.name,
        quick,
        request_key: this.keys.get(kind),
      });
      location.href = page("experiment", { id });
    } catch (error) {
      start.disabled = false;
      toast([error.message, error.hint].filter(Boolean).join(". "));
    }
  }

  /** Come back to: a click starts another. */
  again() {
    this.keys.clear();
    for (const start of this.root.querySelectorAll("[data-start]")) start.removeAttribute("disabled");
  }

  async refresh() {
    const { offset } = this;
    /** @type {Page<ExperimentItem>} */
    let list;
    try {
      list = await get("experiments", { limit: PAGE, offset });
    } catch (error) {
      if (this.past.print === null) failed(this.past.element, error, () => this.refresh());
      else this.problem.textContent = error.message;
      return;
    }
    if (offset !== this.offset) return;
    this.problem.textContent = "";
    this.count.textContent = list.total ? integer(list.total) : "";
    this.drawPast(list.items);
    this.drawPager(list.total);
    await this.readOutcomes(list.items);
  }

  /** @param {ExperimentItem[]} items */
  drawPast(items) {
    const shown = [items, Math.floor(now() / 60_000), [...this.outcomes]];
    this.past.show(shown, () => (items.length ? pastTable(items, this.outcomes) : none()));
  }

  /**
   * Results take longer to read than the list; they do not change once it has finished.
   * @param {ExperimentItem[]} items
   */
  async readOutcomes(items) {
    if (this.reading) return; // another refresh is at it
    this.reading = true;
    await this.readEach(items, this.offset);
    this.reading = false;
  }

  /** @param {ExperimentItem[]} items @param {number} offset */
  async readEach(items, offset) {
    for (const { id, status } of items) {
      if (status !== "finished" || this.outcomes.has(id)) continue;
      try {
        this.outcomes.set(id, outcomeOf(await get(`experiments/${id}`)));
      } catch (error) {
        if (error.status !== 0) this.outcomes.set(id, error.message); // no response at all: tried again
      }
      if (offset !== this.offset) return;
      this.drawPast(items);
    }
  }

  /** @param {number} total */
  drawPager(total) {
    this.pager.hidden = total <= PAGE && this.offset === 0;
    if (this.pager.hidden || this.pager.dataset.shown === `${this.offset}/${total}`) return;
    this.pager.dataset.shown = `${this.offset}/${total}`;
    /** @param {number} offset */
    const go = (offset) => {
      this.offset = Math.max(0, offset);
      this.keep({ offset: this.offset || "" });
      this.refresh();
    };
    const [first, last] = [this.offset + 1, this.offset + PAGE].map((entry) =>
      integer(Math.min(total, entry)),
    );
    fill(
      this.pager,
      h("span", { class: "muted num", text: `${first}–${last} of ${integer(total)}` }),
      h("span", { class: "spacer" }),
      button("Newer", () => go(this.offset - PAGE), { disabled: this.offset === 0, class: "btn small" }),
      button("Older", () => go(this.offset + PAGE), {
        disabled: this.offset + PAGE >= total,
        class: "btn small",
      }),
    );
  }
}

function none() {
  const element = h("div");
  empty(
    element,
    "No past runs",
    "A quick look takes minutes on two CPU cores, longer on shared ones. All of its runs stay in the list of runs, with their tokens.",
  );
  return element;
}
