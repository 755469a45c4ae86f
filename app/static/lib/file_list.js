// Files that are made in the background: asked for, followed, downloaded, removed. What there is, the
// server knows: a reload shows the same.
import { address, get, send } from "./api.js";
import { button, fill, h, link, poll } from "./dom.js";
import { bytes, integer, isLive, plain } from "./format.js";

const LOOK_EVERY = 500; // ms, while one is being made

export class FileList {
  /** @type {(() => void) | null} */
  stopLooking = null;
  /** @type {FileModel | null} */
  model = null;
  supervised = true;
  reason = "";
  problem = "";

  /**
   * Those of a run; without one, those of several runs at once.
   * @param {string | null} run @param {() => unknown} [changed] after each look
   */
  constructor(run, changed) {
    this.run = run;
    this.changed = changed;
    this.element = h("div", { class: "file-list", role: "status", "aria-label": "Files" });
  }

  /** Asks for a file. @param {object} body */
  async make(body) {
    this.problem = "";
    try {
      await send("POST", "files", body);
    } catch (error) {
      this.problem = [error.message, error.hint].filter(Boolean).join(". ");
    }
    await this.refresh();
  }

  async refresh() {
    /** @type {FilePage} */
    let page;
    try {
      page = await get("files", { run: this.run });
    } catch (error) {
      if (error.status === 0) return; // away for a moment
      this.problem = error.message;
      return this.draw([]);
    }
    this.model = page.model ?? null;
    const items = page.items.filter(
      (item) => (this.run !== null || item.runs.length > 1) && item.error_kind !== "cancelled",
    );
    const active = items.some((item) => isLive(item.state));
    if (items.some((item) => item.state === "queued")) {
      const health = await get("health");
      this.supervised = health.supervisor && !health.reason;
      this.reason = health.reason ?? "no supervisor is running, start it with: opd serve";
    }
    if (active) this.stopLooking ??= poll(LOOK_EVERY, () => this.refresh());
    else {
      this.stopLooking?.();
      this.stopLooking = null;
    }
    this.draw(items);
    this.changed?.();
  }

  /** @param {FileItem[]} items */
  draw(items) {
    const focused = document.activeElement?.getAttribute("data-file");
    fill(
      this.element,
      this.problem && h("p", { class: "bad-text", role: "alert", text: this.problem }),
      items.map((item) => this.line(item)),
    );
    if (focused)
      /** @type {HTMLElement | null} */ (this.element.querySelector(`[data-file="${focused}"]`))?.focus();
  }

  /** @param {FileItem} item */
  line(item) {
    const active = isLive(item.state);
    const remove = button(active ? "Cancel" : "Remove", () => this.remove(item), {
      class: "btn small quiet",
      "data-file": `${item.id}-remove`,
      "aria-label": `${active ? "Cancel" : "Remove"} ${item.file}`,
    });
    return h(
      "div",
      { class: "file-line", "data-state": item.state },
      h("span", { class: "file-name", text: item.file }),
      item.state === "done" ? this.done(item) : this.underWay(item),
      remove,
    );
  }

  /** @param {FileItem} item */
  done(item) {
    return [
      item.damaged
        ? h("span", { class: "bad-text", text: `${integer(item.damaged)} damaged left out` })
        : null,
      link(`Download ${bytes(item.bytes ?? 0)}`, address(`files/${item.id}`), {
        class: "btn small",
        download: item.file,
        "data-file": item.id,
      }),
    ];
  }

  /** @param {FileItem} item */
  underWay(item) {
    if (item.state === "failed")
      return h("span", {
        class: "bad-text",
        text: plain([item.error_text, item.hint].filter(Boolean).join(". "), 600),
      });
    const { done = 0, total = 0 } = item.progress ?? {};
    return [
      total > 0 &&
        h(
          "span",
          {
            class: "progress",
            role: "progressbar",
            "aria-label": item.file,
            "aria-valuenow": Math.round((100 * done) / total),
            "aria-valuemax": 100,
          },
          h("span", { style: { width: `${(100 * done) / total}%` } }),
        ),
      h("span", { class: "muted", text: this.phase(item) }),
    ];
  }

  /** @param {FileItem} item */
  phase(item) {
    if (item.state === "running") return `${plain(item.phase, 120)} …`;
    if (this.supervised) return "waiting …";
    return `waiting; ${plain(this.reason, 200)}`;
  }

  /** @param {FileItem} item */
  async remove(item) {
    this.problem = "";
    await send("DELETE", `files/${item.id}`).catch((error) => {
      this.problem = error.message;
    });
    await this.refresh();
  }
}
