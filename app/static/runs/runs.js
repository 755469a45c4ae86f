// All runs: search, filter, live state, names, tags, notes, delete with undo.

import { address, get, newKey, page, send } from "../lib/api.js";
import { button, debounce, fill, h, link, poll, select, toast } from "../lib/dom.js";
import { FileList } from "../lib/file_list.js";
import { integer, plain } from "../lib/format.js";
import { empty, errorBox, failed, loading } from "../lib/panel_states.js";
import { RunNotifier } from "../lib/run_notifier.js";
import { HostsMenu } from "../lib/server/hosts.js";
import { BulkActions } from "./bulk.js";
import { ColumnChooser } from "./column_chooser.js";
import { askedOf, idsOf, shortLabel } from "./columns.js";
import { RunTable } from "./table.js";

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
  /** @type {HTMLInputElement} */
  search;
  /** @type {HTMLElement} */
  pager;
  /** @type {HTMLAnchorElement} */
  csv;

  /** @param {HTMLElement} root @param {URLSearchParams} params */
  constructor(root, params) {
    this.root = root;
    this.state = {
      search: params.get("search") ?? "",
      status: params.get("status") ?? "",
      tag: params.get("tag") ?? "",
      started_by: params.get("started_by") ?? "",
      host: params.get("host") ?? "",
      offset: Math.max(0, Number(params.get("offset")) || 0),
      columns: idsOf(params.get("columns") ?? "").join(","),
      sort: params.get("sort") ?? "",
      order: params.get("order") === "desc" ? "desc" : "",
      group: params.get("group") ?? "",
    };
    this.table = new RunTable(this, {
      sort: (sort, order) => this.filter({ sort, order: order === "desc" ? order : "" }),
      all: (on) => this.chooseAll(on ? this.items : []),
    });
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
    this.hosts = new HostsMenu();
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
    this.tag = h("span", { class: "row" });
    this.csv = link("CSV", "", { class: "btn", download: "runs.csv" });
    this.count = h("span", { class: "muted num" });
    this.now = h("span", { class: "now" });
    const bar = h(
      "div",
      { class: "page-bar" },
      h("h1", { text: "Runs" }),
      this.count,
      this.now,
      this.hosts.element,
      h("span", { class: "spacer" }),
      this.notify.element,
      this.tag,
      search,
      this.status,
      button("Columns", () => this.chooseColumns(), { id: "columns" }),
      this.csv,
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
    const shown = page("", this.state.offset ? this.state : { ...this.state, offset: "" });
    history.replaceState(null, "", shown.replaceAll("%2C", ","));
    this.refresh();
  }

  /** What the server is asked for; without columns and order, as ever. */
  question() {
    const { columns, sort, order, group, ...filters } = this.state;
    return { ...filters, columns: askedOf(idsOf(columns)), sort, order: sort ? order : "", group };
  }

  chooseColumns() {
    new ColumnChooser({ ids: idsOf(this.state.columns), group: this.state.group }, (change) =>
      this.filter(change),
    );
  }

  async refresh() {
    this.hosts.refresh();
    const key = JSON.stringify(this.state);
    let answer;
    try {
      answer = await get("runs", { ...this.question(), limit: PAGE });
    } catch (error) {
      if (key !== JSON.stringify(this.state)) return;
      if (error.status === 422) this.refuse(error);
      else if (!this.table.element.isConnected) failed(this.panel, error, () => this.refresh());
      else this.count.textContent = error.message;
      return;
    }
    if (key === JSON.stringify(this.state)) this.draw(answer);
  }

  /** A column, order or group of the address that there is not. @param {ShownError} error */
  refuse(error) {
    const reset = button("Reset columns", () => this.filter({ columns: "", sort: "", order: "", group: "" }));
    fill(this.panel, errorBox(error, null, reset));
  }

  /** @param {RunPage} answer */
  draw(answer) {
    const { items, total } = answer;
    this.count.textContent = total ? integer(total) : "";
    this.drawChips(answer);
    const { offset, ...shown } = this.question();
    this.csv.href = address("runs.csv", shown);
    this.showNow(items);
    for (const item of items) this.notify.update(item);
    this.items = items;
    for (const item of items) if (this.chosen.has(item.id)) this.chosen.set(item.id, item);
    if (items.length) this.drawTable(answer);
    else this.drawEmpty();
    this.showChosen();
  }

  /** @param {RunPage} answer */
  drawTable(answer) {
    if (!this.table.element.isConnected) {
      this.pager = h("div", { class: "pager" });
      fill(this.panel, this.table.element, this.pager);
    }
    const { columns, sort, order, offset } = this.state;
    const several = severalOf(answer.items, this.state);
    this.table.draw(answer, { ids: idsOf(columns), sort, order, offset, several });
    this.drawPager(answer.total);
  }

  /** What narrows or orders the list and is not seen in it. @param {RunPage} answer */
  drawChips({ group }) {
    const { tag, started_by, host, sort, columns } = this.state;
    /** @param {string} label @param {Record<string, string>} change */
    const chip = (label, change) =>
      button(`${plain(label, 60)} ×`, () => this.filter(change), { class: "btn quiet" });
    const hidden = sort && columns && !idsOf(columns).includes(sort) && !["status", "name"].includes(sort);
    fill(
      this.tag,
      tag && chip(`tag ${tag}`, { tag: "" }),
      started_by && chip(`started by ${started_by}`, { started_by: "" }),
      host && chip(`on ${host}`, { host: "" }),
      group && chip(`grouped by ${shortLabel(group)}`, { group: "" }),
      hidden && chip(`sorted by ${sort}`, { sort: "", order: "" }),
    );
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

  /** @param {number} total */
  drawPager(total) {
    const { offset, sort, group } = this.state;
    const newest = !sort && !group;
    this.pager.hidden = total <= PAGE;
    fill(
      this.pager,
      h("span", {
        class: "muted num",
        text: `${integer(offset + 1)}–${integer(Math.min(total, offset + PAGE))} of ${integer(total)}`,
      }),
      h("span", { class: "spacer" }),
      button(newest ? "Newer" : "Previous", () => this.filter({ offset: Math.max(0, offset - PAGE) }), {
        disabled: offset === 0,
        class: "btn small",
      }),
      button(newest ? "Older" : "Next", () => this.filter({ offset: offset + PAGE }), {
        disabled: offset + PAGE >= total,
        class: "btn small",
      }),
    );
  }

  drawEmpty() {
    const { search, status, tag, started_by, host } = this.state;
    if (search || status || tag || started_by || host) {
      const clear = button("Show all runs", () => {
        this.status.value = "";
        this.search.value = "";
        this.filter({ search: "", status: "", tag: "", started_by: "", host: "" });
      });
      empty(this.panel, "No runs match", "No run has this text, status, tag, person or host.", clear);
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
    this.showChosen();
  }

  showChosen() {
    this.table.tick(this.chosen, this.items);
    this.bulk.show();
  }

  /** @param {Run} item */
  edit(item) {
    this.table.edit(item);
  }

  /** @param {Run} item */
  saved(item) {
    this.table.endEdit(item.id);
    this.refresh();
  }

  /** @param {Run} item */
  async remove(item) {
    try {
      await send("DELETE", `runs/${item.id}?status=${item.status}`);
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

/**
 * The columns that say something: not what all runs of the page have in common.
 * @param {Run[]} items @param {{started_by: string, host: string}} state
 */
function severalOf(items, state) {
  /** @type {("started_by" | "host")[]} */
  const names = ["started_by", "host"];
  return names.filter(
    (name) => state[name] || new Set(items.map((run) => run[name]).filter(Boolean)).size > 1,
  );
}
