// The end of a job's output, followed while it grows.
import { get } from "../lib/api.js";
import { fill, h } from "../lib/dom.js";
import { bytes, plain } from "../lib/format.js";
import { empty, errorBox } from "../lib/panel_states.js";

const MOST = 200_000; // characters kept on the page

export class LogTail {
  /** @param {string} run */
  constructor(run) {
    this.run = run;
    this.next = null;
    this.text = "";
    this.pre = h("pre", { class: "code log", tabindex: "0", "aria-label": "Log" });
    this.body = h("div", {});
    this.size = h("span", { class: "muted num" });
    this.element = h(
      "section",
      { class: "panel", "aria-label": "Log" },
      h("header", {}, h("h2", { text: "Log" }), h("span", { class: "spacer" }), this.size),
      this.body,
    );
    empty(this.body, "No output yet", "The job’s output appears here as soon as it starts.");
  }

  async refresh() {
    let answer;
    try {
      answer = await get(`runs/${this.run}/log`, { offset: this.next });
    } catch (error) {
      if (!this.text) fill(this.body, errorBox(error));
      return;
    }
    if (answer.host && !this.text) {
      const text = `It lies on ${plain(answer.host, 80)}, in the data directory there, and cannot be read from this server: share the directory, or start the servers with --files.`;
      return empty(this.body, "The log is on another host", text);
    }
    if (this.next === 0 && answer.size === 0) return;
    if (answer.text) this.append(answer.text);
    this.next = answer.next;
    this.size.textContent = answer.size ? bytes(answer.size) : "";
  }

  /** @param {string} text */
  append(text) {
    const low = this.pre.scrollHeight - this.pre.scrollTop - this.pre.clientHeight < 40;
    this.text = (this.text + text).slice(-MOST);
    this.pre.textContent = this.text
      .split("\n")
      .map((line) => plain(line, 4000))
      .join("\n");
    if (!this.pre.isConnected) fill(this.body, this.pre);
    if (low) this.pre.scrollTop = this.pre.scrollHeight;
  }
}
