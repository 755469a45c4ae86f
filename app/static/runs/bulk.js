// What can be done with the runs that are ticked, all at once; each is one request as by itself.

import { MOST } from "../compare/controls.js";
import { page, send } from "../lib/api.js";
import { button, fill, h, link, toast } from "../lib/dom.js";
import { integer, isLive, plain } from "../lib/format.js";
import { menu } from "../lib/menu.js";

const MOST_EXPORTED = 100; // runs in one file

export class BulkActions {
  busy = false;

  /**
   * @param {Map<string, Run>} chosen the runs that are ticked, by id
   * @param {{changed: () => unknown, clear: () => unknown, make: (body: object) => unknown}} on
   */
  constructor(chosen, on) {
    this.chosen = chosen;
    this.on = on;
    this.count = h("strong", { class: "num" });
    this.tags = h("input", {
      class: "field",
      placeholder: "tags, comma-separated",
      "aria-label": "Tags of the selected runs",
      maxlength: "2000",
    });
    this.tags.addEventListener("keydown", (event) => event.key === "Enter" && this.tag("add_tags"));
    this.compare = link("Compare", "compare", { class: "btn", id: "compare" });
    this.stop = button("Stop", () => this.stopRuns(), {
      class: "btn danger",
      title: "Saves a checkpoint of running ones, so that they can be resumed",
    });
    this.files = menu("Export", [
      h("span", { class: "menu-label", text: "Rollouts of all, one file" }),
      this.file("JSON lines with tokens", { format: "jsonl" }),
      this.file("Parquet with tokens", { format: "parquet" }),
      this.file("Table, CSV", { format: "csv" }),
      this.file("Table, Parquet", { format: "parquet", table: true }),
    ]);
    this.report = h("div", { class: "bulk-report", role: "status" });
    this.bar = h(
      "div",
      { class: "page-bar bulk", role: "group", "aria-label": "Selected runs" },
      this.count,
      this.tags,
      button("Add tags", () => this.tag("add_tags")),
      button("Remove tags", () => this.tag("remove_tags")),
      this.compare,
      this.files,
      this.stop,
      button("Delete", () => this.remove(), { class: "btn danger" }),
      h("span", { class: "spacer" }),
      button("Clear selection", () => this.on.clear(), { class: "btn quiet" }),
    );
    this.element = h("div", {}, this.bar, this.report);
    this.show();
  }

  /** @param {string} label @param {object} form */
  file(label, form) {
    const make = () => {
      if (this.chosen.size > MOST_EXPORTED)
        return this.tell([`At most ${MOST_EXPORTED} runs go into one file (${this.chosen.size} selected).`]);
      this.on.make({ kind: "export", ...form, runs: [...this.chosen.keys()] });
    };
    return button(label, make, { class: "btn quiet" });
  }

  show() {
    const count = this.chosen.size;
    this.bar.hidden = count === 0;
    this.count.textContent = `${integer(count)} selected`;
    const many = count > MOST;
    this.compare.textContent = many ? `At most ${MOST} can be compared` : `Compare ${count}`;
    const some = [...this.chosen.keys()].slice(0, MOST).join(",");
    this.compare.setAttribute("href", page("compare", { runs: some }).replaceAll("%2C", ","));
    this.stop.disabled = ![...this.chosen.values()].some((run) => isLive(run.status));
  }

  /** @param {"add_tags" | "remove_tags"} way */
  async tag(way) {
    const tags = this.tags.value
      .split(",")
      .map((one) => one.trim())
      .filter(Boolean);
    if (!tags.length) return this.tags.focus();
    const verb = way === "add_tags" ? "tagged" : "untagged";
    const done = await this.each(verb, [...this.chosen.values()], async (run) => {
      const headers = { "If-Match": `"${run.version}"` };
      const edited = await send("PATCH", `runs/${run.id}`, { [way]: tags }, headers);
      this.chosen.set(run.id, edited);
    });
    if (done.length === this.chosen.size) this.tags.value = "";
  }

  stopRuns() {
    const live = [...this.chosen.values()].filter((run) => isLive(run.status));
    return this.each("stopped", live, (run) =>
      send("POST", `runs/${run.id}/cancel`, { mode: "save", asked: run.cancel_mode ?? "" }),
    );
  }

  async remove() {
    const done = await this.each("deleted", [...this.chosen.values()], (run) =>
      send("DELETE", `runs/${run.id}?status=${run.status}`),
    );
    for (const run of done) this.chosen.delete(run.id);
    this.show();
    if (!done.length) return;
    const undo = () => this.each("restored", done, (run) => send("POST", `runs/${run.id}/restore`));
    toast(`Deleted ${done.length === 1 ? nameOf(done[0]) : `${done.length} runs`}`, "Undo", undo, 20);
  }

  /**
   * One request after the other; says what failed and why; → the runs where it did not.
   * @param {string} verb @param {Run[]} runs @param {(run: Run) => Promise<unknown>} act
   */
  async each(verb, runs, act) {
    /** @type {Run[]} */
    const done = [];
    if (this.busy) return done;
    this.busy = true;
    /** @type {string[]} */
    const failures = [];
    for (const [number, run] of runs.entries()) {
      if (runs.length > 3) this.report.textContent = `${number + 1} of ${runs.length} …`;
      try {
        await act(run);
        done.push(run);
      } catch (error) {
        failures.push(
          `${nameOf(run)} (${run.id}): ${[error.message, error.hint].filter(Boolean).join(". ")}`,
        );
      }
    }
    this.busy = false;
    const summary = `${done.length} of ${runs.length} ${verb}`;
    if (failures.length) this.tell([`${summary}. Not changed:`, ...failures]);
    else this.report.textContent = "";
    await this.on.changed();
    return done;
  }

  /** @param {string[]} lines the first, and a list */
  tell([first, ...others]) {
    fill(
      this.report,
      h(
        "section",
        { class: "panel problem", role: "alert" },
        h("p", { text: first }),
        others.length > 0 &&
          h(
            "ul",
            { class: "changes" },
            others.map((line) => h("li", { text: plain(line, 600) })),
          ),
        button("Dismiss", () => fill(this.report), { class: "btn quiet" }),
      ),
    );
  }
}

/** @param {Run} run */
function nameOf(run) {
  return plain(run.name || run.id, 80);
}
