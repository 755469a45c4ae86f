// A report: the run's page and the token view in one file, its position in the address's fragment.
import * as standIn from "../lib/api.js";
import { fill, h } from "../lib/dom.js";
import { exact, number, plain } from "../lib/format.js";
import { errorBox } from "../lib/panel_states.js";
import { startTheme } from "../lib/theme.js";
import { mount } from "../rollout/rollout.js";
import { runPage } from "./run.js";

// In a report, report/api.js stands for lib/api.js.
const { query, reportData } = /** @type {ReportApi} */ (/** @type {unknown} */ (standIn));

startTheme();
start();

async function start() {
  const pages = h("div", { class: "report-pages" });
  document.body.append(pages);
  try {
    const data = await reportData();
    if (location.protocol === "about:") keepInFrame();
    else document.body.prepend(bar(data));
    new Report(pages, data).show();
  } catch (error) {
    fill(pages, h("main", { class: "opd" }, errorBox(error)));
  }
}

/** A frame's links lead from the address of the page around it; here they are to stay inside. */
function keepInFrame() {
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest("a[href^='#']") : null;
    if (!link) return;
    event.preventDefault();
    location.hash = link.getAttribute("href") ?? "";
  });
}

/** @param {ReportData} reportData */
function bar({ run, made, temperature }) {
  const figures = `nats, temperature ${number(temperature, 2)}`;
  return h(
    "header",
    { class: "opd report-bar" },
    h("strong", { text: "OPD Studio report" }),
    h("a", { class: "report-run-link", href: "#run", text: plain(run.name || run.id, 60) }),
    h("span", { class: "muted num", text: run.id }),
    h("span", { class: "muted", text: figures, title: FIGURES }),
    h("span", { class: "muted num", text: `made ${exact(made.at)} by version ${made.version || "unknown"}` }),
  );
}

const FIGURES =
  "Log-probabilities are natural logarithms of each model’s full distribution. Reverse KL is exact, over the whole " +
  "vocabulary, where it is stored; log-ratios are of the sampled token.";

class Report {
  /** @type {HTMLElement} */
  run;
  /** @type {string} */
  shown;

  /** @param {HTMLElement} pages @param {ReportData} data */
  constructor(pages, data) {
    this.pages = pages;
    this.data = data;
    /** @type {HTMLElement | null} */
    this.rollout = null; // its page, once it has been opened
    addEventListener("popstate", (event) => this.moved(event));
    document.addEventListener(
      "keydown",
      (event) => this.shown === "run" && event.stopImmediatePropagation(),
      true,
    );
  }

  /**
   * The token view follows the address by itself, once it is mounted and as long as it is meant.
   * @param {Event} event
   */
  moved(event) {
    const mounted = this.rollout !== null;
    this.show();
    if (this.shown === "run" || !mounted) event.stopImmediatePropagation();
  }

  show() {
    const named = query().get("id");
    const id = location.hash.startsWith("#rollout") && named ? named : location.hash ? "" : this.data.opens;
    this.shown = id ? "rollout" : "run";
    if (!id) {
      this.run ??= h("main", { class: "opd page-run report-run" }, runPage(this.data));
      this.put(this.run);
      document.title = `${plain(this.data.run.name || this.data.run.id, 60)} · OPD Studio report`;
      return;
    }
    const mounted = this.rollout !== null;
    this.rollout ??= h("main", { class: "opd page-rollout" });
    this.put(this.rollout);
    if (mounted) return;
    const params = query();
    params.set("id", id);
    mount(this.rollout, params);
  }

  /** @param {HTMLElement} element */
  put(element) {
    if (this.pages.firstChild !== element) this.pages.replaceChildren(element);
  }
}
