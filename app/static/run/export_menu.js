// What a run's page gives to take along: rollouts, report, model.
import { address } from "../lib/api.js";
import { button, h, link } from "../lib/dom.js";
import { FileList } from "../lib/file_list.js";
import { bytes } from "../lib/format.js";
import { menu } from "../lib/menu.js";

export class ExportMenu {
  /** @param {string} run */
  constructor(run) {
    this.run = run;
    this.files = new FileList(run, () => this.showModel());
    this.model = this.item("Model (tar)", { kind: "save" });
    this.merged = this.item("Model, adapter merged (tar)", { kind: "save", merge: true });
    this.merged.hidden = true;
    this.element = menu("Export", [
      h("span", { class: "menu-label", text: "Rollouts with tokens" }),
      this.item("JSON lines", { kind: "export", format: "jsonl" }),
      this.item("Parquet", { kind: "export", format: "parquet" }),
      h("span", { class: "menu-label", text: "Table of rollouts" }),
      this.table("CSV", "csv"),
      this.table("Parquet", "parquet"),
      h("span", { class: "menu-label", text: "Run" }),
      this.item("Report (HTML)", { kind: "report" }),
      this.model,
      this.merged,
    ]);
    this.element.id = "export";
  }

  /** @param {string} label @param {{kind: string, format?: string, merge?: boolean}} body */
  item(label, body) {
    return button(label, () => this.files.make({ ...body, runs: [this.run] }), { class: "btn quiet" });
  }

  /** @param {string} label @param {string} ending */
  table(label, ending) {
    const path = `runs/${this.run}/rollouts.${ending}`;
    const download = `${this.run}-rollouts.${ending}`;
    return link(label, address(path, { sort: "step" }), { class: "btn quiet", download });
  }

  /** Size and kind of what would be saved. */
  showModel() {
    const { model } = this.files;
    this.model.disabled = !model;
    this.model.title = model ? `The checkpoint after step ${model.step}` : "The run has no checkpoint yet";
    this.model.textContent = model
      ? `${model.adapter ? "Adapter" : "Model"} (tar, ${bytes(model.bytes)})`
      : "Model (tar)";
    this.merged.hidden = !model?.adapter;
  }
}
