// The rollouts of a run: sorted and filtered by the server, page by page; the worst tokens beside.
import { address, get, page } from "../lib/api.js";
import { button, fill, h, inField, link } from "../lib/dom.js";
import { fixed, integer, nats, plain, sum } from "../lib/format.js";
import { empty, failed, loading } from "../lib/panel_states.js";
import { extractedText, isGraded } from "../rollout/answers.js";
import { verdictTag } from "../rollout/head.js";
import { markSign } from "../rollout/marks/note.js";
import { RolloutFilters } from "./filters.js";
import { grouped, kindsOf } from "./groups.js";
import { TOKEN_FILTERS, WorstTokens } from "./worst.js";
import { WorstFilters } from "./worst_filters.js";

const PAGE = 50;
const BOTH = ["step", "min_step", "max_step", "kind", "finish_reason", "correct", "teacher"]; // of rollouts and of their tokens
const KEYS = ["sort", ...BOTH, "min_kl", "min_kl_max", "min_tokens", "max_tokens", "text", "marked"];
const COLUMNS = [
  ["step", "Step", "r"],
  ["", "Kind", ""],
  ["", "Prompt", "r"],
  ["reward", "", ""],
  ["", "Finish", ""],
  ["tokens", "Tokens", "r"],
  ["kl_sum", "KL sum, nats", "r"],
  ["kl_mean", "mean", "r"],
  ["kl_max", "max", "r"],
  ["", "Extracted", "graded"],
  ["", "Answer", "graded"],
  ["", "Completion", "wide"],
];

/** @param {HTMLElement} root @param {URLSearchParams} params */
export function mount(root, params) {
  new RolloutsPage(root, params).start();
}

class RolloutsPage {
  /** @type {HTMLElement} */
  count;
  /** @type {HTMLElement} */
  panel;
  /** @type {WorstFilters} */
  worstFilters;
  /** @type {WorstTokens} */
  worst;
  /** @type {HTMLElement} */
  columns;
  /** @type {HTMLElement} */
  nameLink;
  /** @type {RolloutFilters} */
  filters;
  /** @type {HTMLAnchorElement[]} the rollouts that match, as tables */
  tables;

  /** @param {HTMLElement} root @param {URLSearchParams} params */
  constructor(root, params) {
    this.root = root;
    this.run = params.get("run") ?? "";
    this.state = Object.fromEntries(KEYS.map((k) => [k, params.get(k) ?? ""]));
    this.state.sort ||= "-kl_sum";
    this.offset = offsetIn(params, "offset");
    this.tokenState = Object.fromEntries(Object.keys(TOKEN_FILTERS).map((k) => [k, params.get(k) ?? ""]));
    this.tokenOffset = offsetIn(params, "token_offset");
    this.view = params.get("view") === "worst" ? "worst" : "list";
    this.graded = false; // whether any row of the page was
  }

  async start() {
    document.title = "Rollouts · OPD Studio";
    if (!this.run)
      return failed(this.root, {
        message: "The address names no run",
        hint: "Open one from the list of runs.",
      });
    this.name = h("span");
    this.count = h("span", { class: "muted num" });
    this.panel = h("section", { class: "panel scroll-x", "aria-label": "Rollouts" });
    this.filters = new RolloutFilters(
      this.state,
      (change) => this.change(change),
      () => this.clear(),
    );
    this.worstFilters = new WorstFilters(this.tokenState, (change) => this.changeTokens(change));
    this.worst = new WorstTokens(this.run, {
      filters: this.worstFilters.element,
      clear: () => this.clear(),
      turn: (offset) => this.changeTokens({}, offset),
    });
    this.columns = h(
      "div",
      { class: "rollout-columns", "data-view": this.view },
      this.panel,
      this.worst.element,
    );
    this.tables = ["csv", "parquet"].map((ending) =>
      link(ending === "csv" ? "CSV" : "Parquet", "./", {
        class: "btn",
        download: `${this.run}-rollouts.${ending}`,
        title: "Download the rollouts that match",
        data: { ending },
      }),
    );
    this.nameLink = link(this.run, page("run", { id: this.run }));
    fill(
      this.root,
      h(
        "div",
        { class: "page-bar" },
        h(
          "nav",
          { class: "crumbs", "aria-label": "Breadcrumb" },
          link("Runs", "./"),
          this.nameLink,
          h("h1", { text: "Rollouts" }),
        ),
        this.count,
        h("span", { class: "spacer" }),
        this.tables,
        this.tabs(),
      ),
      this.filters.element,
      this.columns,
    );
    loading(this.panel, "rollouts");
    document.addEventListener("keydown", (event) => this.key(event));
    await Promise.all([this.refresh(), this.nameRun()]);
  }

  async nameRun() {
    const run = await get(`runs/${this.run}`).catch(() => null); // the list shows the error
    if (run) this.nameLink.textContent = plain(run.name || run.id, 60);
  }

  /** Where there is no room for both, one of them is shown. */
  tabs() {
    /** @param {string} view @param {string} label */
    const tab = (view, label) =>
      button(
        label,
        () => {
          this.view = view;
          this.columns.dataset.view = view;
          for (const element of list.children)
            element.setAttribute("aria-pressed", String(element.getAttribute("data-view") === view));
          this.writeAddress();
        },
        { class: "btn", "data-view": view, "aria-pressed": this.view === view ? "true" : "false" },
      );
    const list = h("div", { class: "segments" }, tab("list", "Rollouts"), tab("worst", "Worst tokens"));
    return list;
  }

  writeAddress() {
    const view = this.view === "list" ? null : this.view;
    history.replaceState(
      null,
      "",
      page("rollouts", {
        run: this.run,
        ...this.state,
        offset: this.offset || null,
        view,
        ...this.tokenState,
        token_offset: this.tokenOffset || null,
      }),
    );
  }

  /**
   * n and p: the next and the previous entry of the list in use, the worst tokens where both are.
   * @param {KeyboardEvent} event
   */
  key(event) {
    const step = event.key === "n" ? 1 : event.key === "p" ? -1 : 0;
    if (!step || event.ctrlKey || event.metaKey || event.altKey || inField(event)) return;
    event.preventDefault();
    const inTable = this.panel.contains(document.activeElement) || this.worst.element.offsetParent === null;
    if (inTable) this.stepRow(step);
    else this.worst.step(step);
  }

  /** @param {number} by */
  stepRow(by) {
    const rows = [...this.panel.querySelectorAll(/** @type {"a"} */ ("tbody tr:not([hidden]) a.text-link"))];
    const at = rows.indexOf(/** @type {HTMLAnchorElement} */ (document.activeElement));
    rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : at + by]?.focus();
  }

  clear() {
    location.href = page("rollouts", { run: this.run, sort: this.state.sort });
  }

  /** @param {Record<string, any>} change */
  change(change) {
    Object.assign(this.state, change);
    this.offset = change.offset ?? 0;
    delete this.state.offset;
    if (BOTH.some((name) => name in change)) this.tokenOffset = 0;
    this.writeAddress();
    this.refresh();
  }

  async refresh() {
    const key = JSON.stringify([this.state, this.offset]);
    this.refreshTokens();
    this.filters.show();
    for (const table of this.tables)
      table.href = address(`runs/${this.run}/rollouts.${table.dataset.ending}`, this.state);
    try {
      const answer = await get(`runs/${this.run}/rollouts`, {
        ...this.state,
        offset: this.offset,
        limit: PAGE,
      });
      if (key === JSON.stringify([this.state, this.offset])) this.draw(answer);
    } catch (error) {
      failed(this.panel, error, () => this.refresh());
    }
  }

  /** @param {Record<string, string>} change */
  changeTokens(change, offset = 0) {
    Object.assign(this.tokenState, change);
    this.tokenOffset = offset;
    this.writeAddress();
    return this.refreshTokens();
  }

  refreshTokens() {
    const shared = Object.fromEntries(BOTH.map((name) => [name, this.state[name]]));
    this.worstFilters.show();
    return this.worst.refresh({ ...shared, ...this.tokenState }, this.tokenOffset);
  }

  /** @param {Page<RolloutItem> & {teachers?: Judge[]}} page */
  draw({ items, total, teachers = [] }) {
    this.count.textContent = integer(total);
    this.filters.showTeachers(teachers);
    if (!items.length) {
      const filtered = KEYS.some((k) => k !== "sort" && this.state[k]);
      if (filtered)
        empty(
          this.panel,
          "No rollouts match",
          "No rollout of this run matches these filters.",
          button("Clear filters", () => this.clear()),
        );
      else
        empty(
          this.panel,
          "No rollouts yet",
          "They appear when the first step finishes. records.every and records.rollouts_per_step set which rollouts are stored.",
          link("Back to the run", page("run", { id: this.run }), { class: "btn" }),
        );
      return;
    }
    const top = Math.max(...items.map((i) => i.kl_sum ?? 0));
    this.graded = items.some(isGraded);
    const at = new Map(items.map((item, k) => [item.id, this.offset + k]));
    /** @param {RolloutItem} item */
    const row = (item) => this.row(item, at.get(item.id) ?? 0, top);
    const rows = grouped(items, ({ step, same }) => (same ? `${step}/${same}` : null)).map((group) =>
      groupRows(group, group.map(row)),
    );
    fill(
      this.panel,
      h("table", { class: "table rollouts" }, this.head(), h("tbody", {}, rows)),
      this.pager(total),
    );
  }

  head() {
    const current = this.state.sort.replace("-", "");
    const down = this.state.sort.startsWith("-");
    const cells = COLUMNS.filter(([, , kind]) => kind !== "graded" || this.graded).map(
      ([key, label, kind]) => {
        if (!key) return h("th", { class: kind, scope: "col", text: label });
        const here = key === current;
        const sort = here && down ? key : `-${key}`;
        const text = `${label || "Grade"}${here ? (down ? " ↓" : " ↑") : ""}`;
        return h(
          "th",
          { class: kind, scope: "col", "aria-sort": here ? (down ? "descending" : "ascending") : null },
          h("button", { type: "button", onclick: () => this.change({ sort }) }, text),
        );
      },
    );
    return h("thead", {}, h("tr", {}, cells));
  }

  /** @param {RolloutItem} item @param {number} at @param {number} top */
  row(item, at, top) {
    const href = page("rollout", { id: item.id, ...this.state, at });
    const prompt = plain(item.prompt ?? "", 300);
    /** @param {MouseEvent} event */
    const open = (event) => {
      if (!(event.target instanceof Element && event.target.closest("a"))) location.href = href;
    };
    return h(
      "tr",
      { "data-rollout": item.id, onclick: open },
      h("td", { class: "r", text: item.step }),
      h("td", { class: "muted kind" }, item.kind, marksOf(item)),
      h("td", { class: "r muted", text: `${item.group}.${item.sample}`, title: prompt }),
      h("td", {}, item.damaged ? h("span", { class: "tag bad", text: "damaged" }) : verdictTag(item)),
      h("td", {
        class: item.finish_reason === "length" ? "bad-text" : "muted",
        text: item.finish_reason === "length" ? "truncated" : "finished",
      }),
      h("td", { class: "r", text: integer(item.tokens) }),
      h(
        "td",
        { class: "r heat" },
        h(
          "span",
          { class: "bar-cell" },
          h("span", { style: { width: `${((item.kl_sum ?? 0) / (top || 1)) * 100}%` } }),
          h("span", { text: sum(item.kl_sum) }),
        ),
      ),
      h("td", { class: "r", text: nats(item.kl_mean) }),
      h("td", { class: "r", text: fixed(item.kl_max, 2) }),
      this.graded && answerCells(item),
      h(
        "td",
        { class: "clip wide mono", title: prompt },
        link(plain(item.completion ?? "", 240) || "∅", href, { class: "text-link" }),
      ),
    );
  }

  /** @param {number} total */
  pager(total) {
    const last = Math.min(total, this.offset + PAGE);
    return h(
      "div",
      { class: "pager" },
      h("span", {
        class: "muted num",
        text: `${integer(this.offset + 1)}–${integer(last)} of ${integer(total)}`,
      }),
      h("span", { class: "spacer" }),
      button("Previous", () => this.change({ offset: Math.max(0, this.offset - PAGE) }), {
        class: "btn small",
        disabled: this.offset === 0,
      }),
      button("Next", () => this.change({ offset: this.offset + PAGE }), {
        class: "btn small",
        disabled: last >= total,
      }),
    );
  }
}

/**
 * The rows of equal rollouts: the first, and behind its "×4" the others.
 * @param {RolloutItem[]} items @param {HTMLElement[]} rows
 */
function groupRows(items, rows) {
  const [first, ...others] = rows;
  if (!others.length) return rows;
  for (const row of others) row.hidden = true;
  const count = button(`×${items.length}`, null, {
    class: "btn small same",
    "aria-expanded": "false",
    title: `The same tokens ${items.length} times: ${kindsOf(items)}. Show all.`,
  });
  count.addEventListener("click", (event) => {
    event.stopPropagation(); // the row opens its rollout
    const open = count.getAttribute("aria-expanded") !== "true";
    count.setAttribute("aria-expanded", String(open));
    for (const row of others) row.hidden = !open;
  });
  first.querySelector(".kind")?.append(" ", count);
  return rows;
}

/** That somebody has marked the rollout or tokens of it. @param {RolloutItem} item */
function marksOf({ marked }) {
  if (!marked) return null;
  const text = `${integer(marked)} ${marked === 1 ? "mark" : "marks"}`;
  return [" ", h("span", { role: "img", "aria-label": text, title: text }, markSign())];
}

/** What the grader extracted, and the correct answer. @param {RolloutItem} item */
function answerCells(item) {
  const nothing = item.extracted === null || item.extracted === undefined;
  const extracted = extractedText(item);
  const answer = plain(item.answer ?? "", 300);
  return [
    h("td", { class: `graded ${nothing ? "muted" : "mono"}`, title: extracted, text: extracted || "–" }),
    h("td", { class: "graded mono", title: answer, text: answer || "–" }),
  ];
}

/** @param {URLSearchParams} params @param {string} name */
function offsetIn(params, name) {
  return Math.max(0, Math.floor(Number(params.get(name)) || 0));
}
