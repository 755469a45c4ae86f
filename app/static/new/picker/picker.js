// The dialog that chooses a model or data: places, and a page of one place at a time.
import { get, send } from "../../lib/api.js";
import { openDialog } from "../../lib/dialog.js";
import { button, debounce, fill, h } from "../../lib/dom.js";
import { bytes, integer, plain } from "../../lib/format.js";
import { empty, failed, loading } from "../../lib/panel_states.js";
import { entry } from "./entries.js";
import { dropped, uploadFile } from "./upload.js";

const PAGE = 50;
/** @type {Record<SourceKind, [string, string][]>} */
const PLACES = {
  model: [
    ["bundled", "Bundled"],
    ["runs", "Runs"],
    ["hub", "Hub cache"],
  ],
  data: [
    ["bundled", "Bundled"],
    ["uploads", "Uploads"],
    ["hub", "Hub cache"],
  ],
};
/** @type {Record<string, string>} */
const NOTHING = {
  runs: "No run has saved a checkpoint yet.",
  hub: "Nothing from the hub is on this machine. A hub id can be typed into the field; it is downloaded when the run starts.",
  uploads: "Nothing has been uploaded yet.",
};
/** Where the picker was last, by kind. @type {Partial<Record<SourceKind, {place: string, path: string}>>} */
const last = {};

export class SourcePicker {
  /** @type {HTMLDialogElement} */
  dialog;
  /** @type {SourceItem[]} */
  items = [];
  /** @type {SourceItem | null} */
  run = null;
  place = "";
  path = "";
  turn = 0;

  /** @param {SourceKind} kind @param {string} title @param {(value: string, said?: string) => unknown} chosen */
  constructor(kind, title, chosen) {
    this.kind = kind;
    this.title = title;
    this.chosen = chosen;
    this.leaving = new AbortController();
    this.places = h("div", { class: "pick-places", role: "group", "aria-label": "Places" });
    this.trail = h("nav", { class: "pick-trail", "aria-label": "Folder" });
    this.search = h("input", {
      class: "field wide",
      type: "search",
      placeholder: "Search",
      "aria-label": "Search in this place",
      oninput: debounce(200, () => this.load()),
    });
    this.above = h("div", { class: "pick-above" });
    this.list = h("div", { class: "choices", role: "group", "aria-label": "Entries" });
    this.count = h("p", { class: "pick-count muted", role: "status" });
    this.told = h("p", { class: "pick-told", role: "status" });
  }

  async open() {
    this.dialog = openDialog(
      `${this.title}: choose ${this.kind === "model" ? "a model" : "data"}`,
      this.places,
      this.trail,
      this.above,
      this.search,
      this.list,
      this.count,
    );
    this.dialog.classList.add("picker");
    this.dialog.addEventListener("close", () => this.leaving.abort());
    if (this.kind === "data") dropped(this.dialog, (file) => this.upload(file));
    loading(this.list, this.kind);
    try {
      /** @type {SourcePlaces} */
      const { roots, upload_bytes } = await get(`sources/${this.kind}`);
      this.limit = upload_bytes;
      this.roots = roots;
    } catch (error) {
      return failed(this.list, error, null);
    }
    const names = [...PLACES[this.kind], ...this.roots.map((r) => [`roots/${r.number}`, baseName(r.path)])];
    fill(
      this.places,
      names.map(([place, label]) =>
        button(plain(label, 40), () => this.go(place), {
          class: "btn small",
          data: { place },
          title: this.rootOf(place)?.path,
        }),
      ),
    );
    const before = last[this.kind];
    const known = before && names.some(([place]) => place === before.place);
    const first = this.roots.length ? "roots/0" : "bundled";
    await this.go(known ? before.place : first, known ? before.path : "");
    if (matchMedia("(pointer: fine)").matches) this.search.focus(); // else a keyboard would cover the list
  }

  /** @param {string} place */
  rootOf(place) {
    return this.roots?.find((root) => place === `roots/${root.number}`);
  }

  /** @param {string} place @param {string} [path] */
  go(place, path = "") {
    Object.assign(this, { place, path, run: null });
    last[this.kind] = { place, path };
    this.search.value = "";
    for (const one of /** @type {NodeListOf<HTMLElement>} */ (this.places.querySelectorAll("button")))
      one.setAttribute("aria-pressed", String(one.dataset.place === place));
    this.tell("");
    this.list.inert = true; // it shows the place of before: a click would choose, or delete, out of that one
    return this.load();
  }

  async load(more = false) {
    const turn = ++this.turn;
    if (this.run) return this.showSteps(this.run);
    const root = this.rootOf(this.place);
    /** @type {SourcePage} */
    let page;
    try {
      page = await get(`sources/${this.kind}/${this.place}`, {
        search: this.search.value.trim(),
        limit: PAGE,
        offset: more ? this.items.length : 0,
        ...(root ? { path: this.path } : {}),
      });
    } catch (error) {
      if (turn === this.turn) {
        this.list.inert = false;
        this.showTrail(null);
        failed(this.list, error, this.path ? () => this.go(this.place) : () => this.load());
      }
      return;
    }
    if (turn !== this.turn) return;
    this.list.inert = false;
    const before = more ? this.items.length : 0;
    this.items = more ? [...this.items, ...page.items] : page.items;
    this.show(page, before);
  }

  /** @param {SourcePage} page @param {number} before items that were shown already */
  show(page, before) {
    const root = this.rootOf(this.place);
    this.showTrail(root ? (page.here ?? null) : null);
    this.search.hidden = false;
    fill(this.above, this.place === "uploads" && this.uploader());
    /** @type {import("./entries.js").Actions} */
    const actions = {
      choose: (value) => this.choose(value),
      enter: (item) => this.enter(item),
      remove: (item) => this.remove(item),
    };
    if (this.items.length)
      fill(
        this.list,
        this.items.map((item) => entry(item, actions)),
      );
    else empty(this.list, "Nothing here", this.search.value ? "No name matches." : this.nothing());
    const left = page.total - this.items.length;
    if (left > 0 && page.items.length)
      this.list.append(button(`Show more (${integer(left)})`, () => this.load(true), { class: "btn more" }));
    this.count.textContent = notes(page).join(" ");
    if (before) /** @type {HTMLElement} */ (this.list.children[before]?.firstElementChild)?.focus();
  }

  nothing() {
    const files = this.kind === "model" ? "No folders and no GGUF files." : "No folders and no data files.";
    return NOTHING[this.place] ?? files;
  }

  /** Root and folders down to this one, each a click away. @param {SourceItem | null} here */
  showTrail(here) {
    const root = this.rootOf(this.place);
    const parts = this.path.split("/").filter(Boolean);
    this.trail.hidden = !root && !this.run;
    if (this.run)
      return fill(
        this.trail,
        button("Runs", () => this.go("runs"), { class: "btn small quiet" }),
        h("span", { text: "/" }),
        h("strong", { text: plain(this.run.name || this.run.id || "", 80) }),
      );
    if (!root) return fill(this.trail);
    const names = [plain(root.path, 120), ...parts.map((part) => plain(part, 80))];
    fill(
      this.trail,
      names.map((name, depth) =>
        depth === parts.length
          ? h("strong", { text: name, "aria-current": "location" })
          : [
              button(name, () => this.go(this.place, parts.slice(0, depth).join("/")), {
                class: "btn small quiet",
              }),
              h("span", { text: "/" }),
            ],
      ),
      h("span", { class: "spacer" }),
      here?.value &&
        button("Use this folder", () => this.choose(/** @type {string} */ (here.value)), {
          class: "btn small strong",
        }),
    );
  }

  /** @param {SourceItem} item */
  enter(item) {
    if (!item.steps) {
      this.go(this.place, item.path);
      this.search.focus();
      return;
    }
    this.run = item;
    this.showSteps(item);
  }

  /** The checkpoints of a run, newest first. @param {SourceItem} run */
  showSteps(run) {
    this.showTrail(null);
    this.search.hidden = true;
    const steps = [...(run.steps ?? [])].reverse();
    /** @type {SourceItem[]} */
    const items = steps.map((step) => ({ name: `Step ${integer(step)}`, value: `${run.id}@${step}`, step }));
    const newest = { name: "Newest", value: run.id ?? null, step: steps[0] };
    const none = () => undefined;
    fill(
      this.list,
      [newest, ...items].map((item) =>
        entry(item, { choose: (value) => this.choose(value), enter: none, remove: none }),
      ),
    );
    this.count.textContent = "“Newest” is settled when the run starts.";
    /** @type {HTMLElement | null} */ (this.list.querySelector("button"))?.focus();
  }

  /** @param {string} value @param {string} [said] */
  choose(value, said) {
    this.dialog.close();
    this.chosen(value, said);
  }

  uploader() {
    if (!this.limit) return h("p", { class: "muted", text: "This server takes no uploads." });
    const input = h("input", {
      type: "file",
      class: "offscreen",
      tabindex: "-1",
      "aria-hidden": "true",
      id: "pick-upload",
      onchange: () => input.files?.[0] && this.upload(input.files[0]),
    });
    return [
      button("Upload a file", () => input.click(), { class: "btn strong" }),
      input,
      h("span", {
        class: "muted",
        text: `JSON lines, JSON, CSV or Parquet, up to ${bytes(this.limit)}; or drop one here.`,
      }),
      this.told,
    ];
  }

  /** @param {File} file */
  upload(file) {
    if (this.place !== "uploads") this.go("uploads");
    return uploadFile(
      file,
      (value, said) => this.choose(value, said),
      (said, bad) => this.tell(said, bad),
      this.leaving.signal,
    );
  }

  /** @param {string} said @param {boolean} [bad] */
  tell(said, bad = false) {
    this.told.textContent = said;
    this.told.classList.toggle("bad-text", bad);
  }

  /** @param {SourceItem} item */
  async remove(item) {
    try {
      await send("DELETE", `uploads/${encodeURIComponent(item.file ?? "")}`);
    } catch (error) {
      this.tell(error.message, true);
    }
    await this.load();
    this.search.focus();
  }
}

/** @param {SourcePage} page */
function notes({ total, left_out = 0, more = false }) {
  const many = left_out === 1 ? "1 entry is" : `${integer(left_out)} entries are`;
  return [
    total === 1 ? "1 entry." : `${integer(total)} entries.`,
    more ? "The folder has more names than are read: only the first ones are listed." : "",
    left_out ? `${many} not listed: links that lead outside or nowhere, or unreadable names.` : "",
  ];
}

/** @param {string} path */
function baseName(path) {
  return path.split("/").filter(Boolean).at(-1) ?? path;
}
