// All runs: search, filter, live state, names, tags, notes, delete with undo.

import { address, get, newKey, page, send } from "../lib/api.js";
import { button, debounce, fill, h, link, poll, select, toast } from "../lib/dom.js";
import { FileList } from "../lib/file_list.js";
import { integer } from "../lib/format.js";
import { empty, failed, loading } from "../lib/panel_states.js";
import { RunNotifier } from "../lib/run_notifier.js";
import { BulkActions } from "./bulk.js";
import { COLUMNS, editorRow, runRow } from "./row.js";

const PAGE = 100;
const LIVE = 2000; // ms
const STATUSES = ["running", "queued", "finished", "failed", "interrupted", "cancelled"];

/** @param {HTMLElement} root @param {URLSearchParams} params */
export function mount(root, params) {
  document.title = "Runs · OPD Studio";
  new RunsPage(root, params).start();
}

class RunsPage {
  /** @type {HTMLSelectElement} */
  status;
  /** @type {HTMLElement} */
  tag;
  /** @type {HTMLElement} */
  count;
  /** @type {HTMLElement} */
  now;
  /** @type {HTMLElement} */
  panel;
  /** @type {HTMLElement | undefined} */
  body;
  /** @type {HTMLInputElement} */
  search;
  /** @type {HTMLElement} */
  pager;
  /** @type {HTMLInputElement | undefined} */
  all;

  /** @param {HTMLElement} root @param {URLSearchParams} params */
  constructor(root, params) {
    this.root = root;
    this.state = {
      search: params.get("search") ?? "",
      status: params.get("status") ?? "",
      tag: params.get("tag") ?? "",
      offset: Math.max(0, Number(params.get("offset")) || 0),
    };
    /** @type {Map<string, {print: string, minute: number, element: HTMLElement, editor?: HTMLElement}>} */
    this.rows = new Map(); // run id → {print, element, open}
    this.key = newKey();
    /** @type {Map<string, Run>} kept over filters and pages */
    this.chosen = new Map();
    this.files = new FileList(null);
    this.bulk = new BulkActions(this.chosen, {
      changed: () => this.refresh(),
      clear: () => this.chooseAll([]),
      make: (body) => this.files.make(body),
    });
    /** @type {Run[]} those of the page */
    this.items = [];
    this.notify = new RunNotifier("one");
  }

  start() {
    const search = h("input", {
      class: "field search",
      type: "search",
      placeholder: "Search name, notes, tags",
      "aria-label": "Search runs",
      value: this.state.search,
    });
    search.addEventListener(
      "input",
      debounce(200, () => this.filter({ search: search.value })),
    );
    this.search = search;
    /** @type {Option[]} */
    const options = [["", "Any status"], ...STATUSES.map((s) => /** @type {Option} */ ([s, s]))];
    this.status = select(options, this.state.status, (status) => this.filter({ status }), {
      "aria-label": "Status",
    });
    this.tag = h("span");
    this.count = h("span", { class: "muted num" });
    this.now = h("span", { class: "now" });
    const bar = h(
      "div",
      { class: "page-bar" },
      h("h1", { text: "Runs" }),
      this.count,
      this.now,
      h("span", { class: "spacer" }),
      this.notify.element,
      this.tag,
      search,
      this.status,
      link("CSV", address("runs.csv"), { class: "btn", download: "runs.csv" }),
      link("New run", "new", { class: "btn strong" }),
    );
    this.panel = h("section", { class: "panel scroll-x", "aria-label": "Runs" });
    fill(this.root, bar, this.bulk.element, this.files.element, this.panel);
    this.files.refresh();
    loading(this.panel, "runs");
    this.refresh();
    poll(LIVE, () => this.refresh());
  }

  /** @param {Record<string, string | number>} change */
  filter(change) {
    Object.assign(this.state, { offset: 0 }, change);
    history.replaceState(null, "", page("", this.state.offset ? this.state : { ...this.state, offset: "" }));
    this.refresh();
  }

  async refresh() {
    const key = JSON.stringify(this.state);
    let answer;
    try {
      answer = await get("runs", { ...this.state, limit: PAGE });
    } catch (error) {
      if (!this.body?.isConnected) failed(this.panel, error, () => this.refresh());
      else this.count.textContent = error.message;
      return;
    }
    if (key === JSON.stringify(this.state)) this.draw(answer);
  }

  /** @param {Page<Run>} page */
  draw({ items, total }) {
    this.count.textContent = total ? integer(total) : "";
    fill(
      this.tag,
      this.state.tag &&
        button(`tag ${this.state.tag} ×`, () => this.filter({ tag: "" }), { class: "btn quiet" }),
    );
    this.showNow(items);
    for (const item of items) this.notify.update(item);
    this.items = items;
    for (const item of items) if (this.chosen.has(item.id)) this.chosen.set(item.id, item);
    this.showChosen();
    if (!items.length) return this.drawEmpty();
    const body = this.body?.isConnected ? this.body : this.drawFrame();
    this.sync(items, body);
    this.drawPager(total);
  }

  /** @param {Run[]} items */
  showNow(items) {
    /** @param {string} status */
    const count = (status) => items.filter((i) => i.status === status).length;
    const parts = [
      [count("running"), "running"],
      [count("queued"), "queued"],
    ].filter(([n]) => n);
    fill(
      this.now,
      parts.map(([n, word]) => h("span", { class: `status ${word}`, text: `${n} ${word}` })),
    );
  }

  drawFrame() {
    this.body = h("tbody");
    this.all = h("input", {
      type: "checkbox",
      "aria-label": "Select all runs of this page",
      onchange: () => this.chooseAll(this.all?.checked ? this.items : []),
    });
    const heads = COLUMNS.map(([label, kind]) =>
      h("th", { class: kind, scope: "col" }, kind === "choose" ? this.all : label),
    );
    this.pager = h("div", { class: "pager" });
    this.rows.clear();
    fill(
      this.panel,
      h("table", { class: "table runs" }, h("thead", {}, h("tr", {}, heads)), this.body),
      this.pager,
    );
    return this.body;
  }

  /**
   * Replaces only the rows that changed; one that is being edited stays.
   * @param {Run[]} items @param {HTMLElement} body
   */
  sync(items, body) {
    const present = new Set(items.map((i) => i.id));
    for (const [id, row] of this.rows) {
      if (present.has(id)) continue;
      row.element.remove();
      row.editor?.remove();
      this.rows.delete(id);
    }
    /** @type {HTMLElement | null} */
    let before = null;
    for (const item of items) {
      const print = JSON.stringify(item);
      let row = this.rows.get(item.id);
      const held = row?.element.querySelector("details[open]"); // its menu is being used
      if (!row || (!held && (row.print !== print || row.minute !== minute()))) {
        const element = runRow(item, this);
        if (row) row.element.replaceWith(element);
        row = { ...row, print, element, minute: minute() };
        this.rows.set(item.id, row);
      }
      /** @type {ChildNode | null} */
      const next = before ? before.nextSibling : body.firstChild;
      if (next !== row.element) body.insertBefore(row.element, next);
      before = row.editor?.isConnected ? row.editor : row.element;
    }
  }

  /** @param {number} total */
  drawPager(total) {
    const { offset } = this.state;
    this.pager.hidden = total <= PAGE;
    fill(
      this.pager,
      h("span", {
        class: "muted num",
        text: `${integer(offset + 1)}–${integer(Math.min(total, offset + PAGE))} of ${integer(total)}`,
      }),
      h("span", { class: "spacer" }),
      button("Newer", () => this.filter({ offset: Math.max(0, offset - PAGE) }), {
        disabled: offset === 0,
        class: "btn small",
      }),
      button("Older", () => this.filter({ offset: offset + PAGE }), {
        disabled: offset + PAGE >= total,
        class: "btn small",
      }),
    );
  }

  drawEmpty() {
    const { search, status, tag } = this.state;
    if (search || status || tag) {
      const clear = button("Show all runs", () => {
        this.status.value = "";
        this.search.value = "";
        this.filter({ search: "", status: "", tag: "" });
      });
      empty(this.panel, "No runs match", "No run has this text, status or tag.", clear);
      return;
    }
    if (this.panel.querySelector("[data-start-demo]")) return;
    const start = button("Start the demo run", () => this.startDemo(start), {
      class: "btn strong",
      "data-start-demo": true,
    });
    empty(
      this.panel,
      "No runs yet",
      "The demo distils the bundled teacher into the bundled student: about a minute on two CPU cores, no network, no GPU. Open any token while it runs and see where the coach disagrees.",
      h("div", { class: "row" }, start, " ", link("Set up another run", "new", { class: "btn quiet" })),
    );
  }

  /** @param {HTMLButtonElement} start */
  async startDemo(start) {
    start.disabled = true;
    try {
      const { id } = await send("POST", "runs", { recipe: "demo", request_key: this.key });
      location.href = page("run", { id });
    } catch (error) {
      start.disabled = false;
      toast([error.message, error.hint].filter(Boolean).join(". "));
    }
  }

  /** @param {Run} run @param {boolean} on */
  choose(run, on) {
    if (on) this.chosen.set(run.id, run);
    else this.chosen.delete(run.id);
    this.showChosen();
  }

  /** @param {Run[]} runs */
  chooseAll(runs) {
    this.chosen.clear();
    for (const run of runs) this.chosen.set(run.id, run);
    for (const box of this.panel.querySelectorAll(/** @type {"input"} */ ("td.choose input")))
      box.checked = this.chosen.has(box.closest("tr")?.dataset.run ?? "");
    this.showChosen();
  }

  showChosen() {
    if (this.all) {
      const here = this.items.filter((item) => this.chosen.has(item.id)).length;
      this.all.checked = here > 0 && here === this.items.length;
      this.all.indeterminate = here > 0 && here < this.items.length;
    }
    this.bulk.show();
  }

  /** @param {Run} item */
  edit(item) {
    const row = this.rows.get(item.id);
    if (!row) return;
    row.editor?.remove();
    row.editor = editorRow(item, this);
    row.element.after(row.editor);
    row.editor.querySelector("input")?.focus();
  }

  /** @param {Run} item */
  saved(item) {
    this.rows.get(item.id)?.editor?.remove();
    this.refresh();
  }

  /** @param {Run} item */
  async remove(item) {
    try {
      await send("DELETE", `runs/${item.id}`);
    } catch (error) {
      toast([error.message, error.hint].filter(Boolean).join(". "));
      return;
    }
    toast(`Deleted ${item.name || item.id}`, "Undo", async () => {
      await send("POST", `runs/${item.id}/restore`);
      this.refresh();
    });
    this.refresh();
  }
}

function minute() {
  return Math.floor(Date.now() / 60_000);
}
