// The dialog in which the columns of the table of runs are chosen, put in order, and grouped by.
import { get } from "../lib/api.js";
import { openDialog } from "../lib/dialog.js";
import { button, fill, h, select } from "../lib/dom.js";
import { plain } from "../lib/format.js";
import { failed, loading } from "../lib/panel_states.js";
import { FIRST_SIGHT, PAGE_ONLY } from "./columns.js";

const MOST = 40;
const GROUPING = ["status", "recipe", "student", "teacher", "objective", "seed", "device", "tags"];
/** @type {RunColumn[]} */
const BUILT_IN = Object.entries(PAGE_ONLY).map(([id, label]) => {
  return { id, label, kind: "run", unit: "", help: "", share: false, goal: "" };
});

export class ColumnChooser {
  /** @type {RunColumn[]} */
  known = [];
  search = "";

  /**
   * @param {{ids: string[], group: string}} state
   * @param {(change: {columns: string, group: string}) => unknown} changed at once, on every choice
   */
  constructor(state, changed) {
    this.ids = state.ids.length ? [...state.ids] : [...FIRST_SIGHT];
    this.group = state.group;
    this.changed = changed;
    this.order = h("ol", { class: "column-order", "aria-label": "Shown columns, in order" });
    this.list = h("div", { class: "column-list", role: "group", "aria-label": "All columns" });
    this.grouping = h("span", { class: "control" });
    this.told = h("p", { class: "offscreen", role: "status" });
    const field = h("input", {
      class: "field wide",
      type: "search",
      placeholder: "Search metrics and settings",
      "aria-label": "Search columns",
      oninput: () => {
        this.search = field.value.trim().toLowerCase();
        this.drawList();
      },
    });
    openDialog(
      "Columns",
      h(
        "div",
        { class: "column-tools" },
        this.grouping,
        h("span", { class: "spacer" }),
        button("Reset", () => this.reset(), { class: "btn" }),
      ),
      h("div", { class: "column-parts" }, h("div", { class: "column-all" }, field, this.list), this.order),
      this.told,
    );
    field.focus();
    this.load();
  }

  async load() {
    loading(this.list, "columns");
    try {
      const { items } = await get("runs/columns");
      this.known = [
        ...items.filter((/** @type {RunColumn} */ one) => !["id", "status", "name"].includes(one.id)),
        ...BUILT_IN,
      ];
    } catch (error) {
      failed(this.list, error, () => this.load());
      return;
    }
    this.draw();
  }

  draw() {
    this.drawGrouping();
    this.drawOrder();
    this.drawList();
  }

  drawGrouping() {
    const facts = GROUPING.flatMap((id) => this.known.filter((one) => one.id === id));
    if (!facts.length) facts.push(...this.known.filter((one) => one.kind === "run"));
    const settings = this.known.filter(
      (one) => one.kind === "setting" && (one.different || one.id === this.group),
    );
    /** @type {Option[]} */
    const options = [
      ["", "No groups"],
      ...[...facts, ...settings].map((one) => /** @type {Option} */ ([one.id, plain(one.label, 60)])),
    ];
    if (this.group && !options.some(([id]) => id === this.group))
      options.push([this.group, plain(this.group, 60)]);
    const choose = select(options, this.group, (group) => this.choose(this.ids, group), { id: "group-by" });
    const label = h("label", { class: "muted", for: "group-by", text: "Group by" });
    fill(this.grouping, label, choose);
  }

  /** @param {string} [focus] id and what its button does */
  drawOrder(focus = "") {
    const rows = this.ids.map((id, at) => {
      const label = this.labelOf(id);
      /** @param {string} sign @param {string} what @param {number} to */
      const move = (sign, what, to) =>
        button(sign, () => this.move(at, to, `${what} ${id}`), {
          class: "btn small quiet",
          "data-key": `${what} ${id}`,
          "aria-label": `Move ${label} ${what}`,
          disabled: to < 0 || to >= this.ids.length,
        });
      return h(
        "li",
        {},
        h("span", { class: "column-name", title: id, text: label }),
        move("↑", "up", at - 1),
        move("↓", "down", at + 1),
        button("×", () => this.toggle(id, false), {
          class: "btn small quiet",
          "aria-label": `Remove ${label}`,
        }),
      );
    });
    fill(this.order, rows);
    if (!focus) return;
    const pressed = [...this.order.querySelectorAll("button")].find((one) => one.dataset.key === focus);
    const other = pressed?.parentElement?.querySelector(/** @type {"button"} */ ("button:enabled"));
    (pressed?.disabled ? other : pressed)?.focus();
  }

  drawList() {
    /** @param {RunColumn} one */
    const fits = (one) =>
      this.search
        ? `${one.label} ${one.id} ${one.help}`.toLowerCase().includes(this.search)
        : !/:(min|max)$/.test(one.id) || this.ids.includes(one.id);
    /** @type {[string, (one: RunColumn) => boolean][]} */
    const parts = [
      ["Settings that differ", (one) => one.kind === "setting" && Boolean(one.different)],
      ["Scores and metrics", (one) => one.kind === "metric"],
      ["Run", (one) => one.kind === "run"],
      ["Other settings", (one) => one.kind === "setting" && !one.different],
    ];
    const shown = parts.map(([title, of]) => ({
      title,
      items: this.known.filter((one) => of(one) && fits(one)),
    }));
    fill(
      this.list,
      shown
        .filter(({ items }) => items.length)
        .map(({ title, items }) =>
          h(
            "fieldset",
            {},
            h("legend", { text: title }),
            items.map((one) => this.option(one)),
          ),
        ),
      shown.every(({ items }) => !items.length) &&
        h("p", { class: "muted pad", text: "No metric or setting of the stored runs has this in its name." }),
    );
  }

  /** @param {RunColumn} one */
  option(one) {
    const box = h("input", {
      type: "checkbox",
      data: { id: one.id },
      onchange: () => this.toggle(one.id, box.checked),
    });
    box.checked = this.ids.includes(one.id);
    box.disabled = !box.checked && this.ids.length >= MOST;
    const beside = [one.kind === "metric" ? one.id : "", one.unit].filter(Boolean).join(" · ");
    return h(
      "label",
      { class: "column-option", title: plain(one.help, 400) },
      box,
      h("span", { text: plain(one.label, 80) }),
      h("span", { class: "muted", text: plain(beside, 80) }),
    );
  }

  /** @param {string} id */
  labelOf(id) {
    return plain(this.known.find((one) => one.id === id)?.label ?? id, 60);
  }

  /** @param {string} id @param {boolean} on */
  toggle(id, on) {
    const left = this.ids.filter((one) => one !== id);
    const at = this.ids.indexOf(id);
    if (on || left.length) this.choose(on ? [...left, id] : left, this.group);
    const label = this.labelOf(id);
    this.told.textContent = on || left.length ? `${label} ${on ? "added" : "removed"}` : "One column stays";
    const inList = this.list.contains(document.activeElement);
    this.drawOrder();
    this.drawList();
    const boxes = [...this.list.querySelectorAll("input")];
    const next = this.order.children[Math.min(at, this.ids.length - 1)];
    if (inList) boxes.find((box) => box.dataset.id === id)?.focus();
    else next?.querySelector(/** @type {"button"} */ ("button:last-child"))?.focus();
  }

  /** @param {number} from @param {number} to @param {string} focus */
  move(from, to, focus) {
    const ids = [...this.ids];
    ids.splice(to, 0, ...ids.splice(from, 1));
    this.choose(ids, this.group);
    this.drawOrder(focus);
    this.told.textContent = `${this.labelOf(ids[to])} is column ${to + 1} of ${ids.length}`;
  }

  reset() {
    this.choose([...FIRST_SIGHT], "");
    this.draw();
    this.told.textContent = "Columns as at first";
  }

  /** @param {string[]} ids @param {string} group */
  choose(ids, group) {
    Object.assign(this, { ids, group });
    const same = ids.join(",") === FIRST_SIGHT.join(",");
    this.changed({ columns: same ? "" : ids.join(","), group });
  }
}
