// The table of runs itself: heads that sort, rows that are replaced only where they changed, groups.
import { fill, h } from "../lib/dom.js";
import { integer, now, plain } from "../lib/format.js";
import { columnsOf, shortLabel, valueText } from "./columns.js";
import { editorRow, runRow } from "./row.js";

const FIXED = 3; // cells before the columns: box, status, name

export class RunTable {
  /** @type {HTMLElement | undefined} */
  body;
  /** @type {HTMLInputElement | undefined} */
  all;
  /** @type {ColumnView[]} */
  columns = [];
  /** @type {string} what the heads were drawn of */
  drawn = "";

  /**
   * @param {RowActions} on what rows can do
   * @param {{sort: (sort: string, order: string) => unknown, all: (on: boolean) => unknown}} heads
   */
  constructor(on, heads) {
    this.on = on;
    this.heads = heads;
    /** @type {Map<string, TableRow>} by the run's id, or the group's */
    this.rows = new Map();
    this.element = h("table", { class: "table runs" });
  }

  /** @param {RunPage} answer @param {RunTableState} state */
  draw(answer, state) {
    const { items, groups = [], columns = [], group } = answer;
    this.columns = columnsOf(state.ids, columns, items, state.several);
    const print = JSON.stringify([state, this.columns]);
    if (print !== this.drawn || !this.body?.isConnected) this.drawFrame(state);
    this.drawn = print;
    /** @type {{key: string, print: string, make: () => HTMLElement}[]} */
    const rows = [];
    let last = -1;
    for (const run of items) {
      if (group && run.group !== undefined && run.group !== last) {
        last = run.group;
        const one = groups[last];
        const make = () => this.groupRow(one, group, state.offset);
        rows.push({ key: `group ${last}`, print: JSON.stringify([one, group]), make });
      }
      rows.push({
        key: run.id,
        print: JSON.stringify(run),
        make: () => runRow(run, this.columns, this.on),
      });
    }
    if (this.body) this.sync(rows, this.body);
  }

  get span() {
    return FIXED + this.columns.reduce((sum, column) => sum + (column.span ?? 1), 0) + 1;
  }

  /** @param {RunTableState} state */
  drawFrame(state) {
    this.body = h("tbody");
    this.all = h("input", {
      type: "checkbox",
      "aria-label": "Select all runs of this page",
      onchange: () => this.heads.all(this.all?.checked ?? false),
    });
    const status = { id: "status", label: "Status", sort: "status", cells: () => [] };
    const name = { id: "name", label: "Name", sort: "name", cells: () => [] };
    const heads = [
      h("th", { class: "choose", scope: "col" }, this.all),
      ...[status, name, ...this.columns].flatMap((column) => this.head(column, state)),
      h("th", { scope: "col" }, h("span", { class: "offscreen", text: "Actions" })),
    ];
    this.rows.clear();
    const focused = document.activeElement;
    const pressed = focused instanceof HTMLElement && this.element.contains(focused) && focused.dataset.sort;
    fill(this.element, h("thead", {}, h("tr", {}, heads)), this.body);
    const buttons = [...this.element.querySelectorAll("button")];
    if (pressed) buttons.find((one) => one.dataset.sort === pressed)?.focus();
  }

  /** @param {ColumnView} column @param {RunTableState} state */
  head(column, { sort, order }) {
    const current = sort || "created_at";
    const down = sort ? order === "desc" : true;
    const here = column.sort !== "" && column.sort === current;
    const kind = column.number ? "r" : "";
    const label = `${column.label}${here ? (down ? " ↓" : " ↑") : ""}`;
    const content = column.sort
      ? h(
          "button",
          { type: "button", "data-sort": column.sort, onclick: () => this.sortBy(column, here, down) },
          label,
        )
      : label;
    const direction = here ? (down ? "descending" : "ascending") : null;
    const head = h("th", { class: kind, scope: "col", title: column.title, "aria-sort": direction }, content);
    return column.span === 2 ? [head, h("td", { class: "head-rest" })] : [head];
  }

  /** First the way in which the column is looked at, then the other. @param {ColumnView} column @param {boolean} here @param {boolean} down */
  sortBy(column, here, down) {
    const descending = here ? !down : Boolean(column.high);
    if (column.sort === "created_at" && descending) this.heads.sort("", "");
    else this.heads.sort(column.sort, descending ? "desc" : "asc");
  }

  /** @param {RunGroup} one @param {RunColumn} column @param {number} offset rows on pages before */
  groupRow(one, column, offset) {
    const value = one.value === null ? "none" : valueText(column, one.value);
    const count = `${integer(one.runs)} ${one.runs === 1 ? "run" : "runs"}`;
    return h(
      "tr",
      { class: "run-group" },
      h(
        "th",
        {
          colspan: FIXED,
          scope: "rowgroup",
          title: plain(`${column.id} = ${JSON.stringify(one.value)}`, 600),
        },
        h("span", { class: "muted", text: `${shortLabel(column)} ` }),
        h("strong", { text: value }),
        h("span", { class: "muted", text: ` · ${count}${one.offset < offset ? ", continued" : ""}` }),
      ),
      this.columns.map((shown) => summaryCell(shown, one.columns[shown.id])),
      h("td"),
    );
  }

  /**
   * Replaces only the rows that changed; one that is being edited stays.
   * @param {{key: string, print: string, make: () => HTMLElement}[]} rows @param {HTMLElement} body
   */
  sync(rows, body) {
    const present = new Set(rows.map((one) => one.key));
    for (const [key, row] of this.rows) {
      if (present.has(key)) continue;
      row.element.remove();
      row.editor?.remove();
      this.rows.delete(key);
    }
    /** @type {HTMLElement | null} */
    let before = null;
    for (const { key, print, make } of rows) {
      let row = this.rows.get(key);
      const held = row?.element.querySelector("details[open]"); // its menu is being used
      if (!row || (!held && (row.print !== print || row.minute !== minute()))) {
        const element = make();
        if (row) row.element.replaceWith(element);
        row = { ...row, print, element, minute: minute() };
        this.rows.set(key, row);
      }
      /** @type {ChildNode | null} */
      const next = before ? before.nextSibling : body.firstChild;
      if (next !== row.element) body.insertBefore(row.element, next);
      before = row.editor?.isConnected ? row.editor : row.element;
    }
  }

  /** @param {Run} run */
  edit(run) {
    const row = this.rows.get(run.id);
    if (!row) return;
    row.editor?.remove();
    row.editor = editorRow(run, this.span, this.on);
    row.element.after(row.editor);
    row.editor.querySelector("input")?.focus();
  }

  /** @param {string} id */
  endEdit(id) {
    this.rows.get(id)?.editor?.remove();
  }

  /** @param {Map<string, Run>} chosen @param {Run[]} items */
  tick(chosen, items) {
    for (const box of this.element.querySelectorAll(/** @type {"input"} */ ("td.choose input")))
      box.checked = chosen.has(box.closest("tr")?.dataset.run ?? "");
    if (!this.all) return;
    const here = items.filter((item) => chosen.has(item.id)).length;
    this.all.checked = here > 0 && here === items.length;
    this.all.indeterminate = here > 0 && here < items.length;
  }
}

/** Mean and deviation over the group's runs, and the best of them. @param {ColumnView} column @param {GroupSummary | undefined} summary */
function summaryCell(column, summary) {
  const colspan = column.span ?? 1;
  if (!summary || !column.text) return h("td", { colspan });
  const { n, mean, deviation, best } = summary;
  const spread = deviation === null ? "" : ` ± ${column.text(deviation)}`;
  const lines = [h("span", { text: `${column.text(mean)}${spread}` })];
  if (best !== null && n > 1) lines.push(h("span", { class: "muted", text: `best ${column.text(best)}` }));
  const title = `mean${spread && " ± standard deviation"} of ${integer(n)} ${n === 1 ? "run" : "runs"} with a value`;
  return h("td", { colspan, class: "r", title }, lines);
}

function minute() {
  return Math.floor(now() / 60_000);
}
