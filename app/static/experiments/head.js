// The head of an experiment's page: its question, state, progress, what can be done, the command.
import { address, page } from "../lib/api.js";
import { button, copyButton, fill, h, link } from "../lib/dom.js";
import { ago, duration, exact, integer, now, plain } from "../lib/format.js";
import { MemoView } from "../lib/memo_view.js";
import { seeds } from "./figures.js";

const RESUMABLE = ["stopped", "cancelled", "failed"];

export class ExperimentHead {
  /** @type {Experiment} */
  experiment;
  /** @type {string} */
  actsFor;

  /** @param {ExperimentActions} on */
  constructor(on) {
    this.on = on;
    this.name = h("h1");
    this.status = h("span");
    this.kind = h("span", { class: "tag" });
    this.csv = link("CSV", "", { class: "btn", download: "", id: "exp-csv" });
    this.acts = h("span", { class: "run-part" });
    this.question = h("p", { class: "exp-question" });
    this.description = h("p", { class: "muted exp-text" });
    this.count = h("span", { class: "num" });
    this.filled = h("span");
    this.bar = h(
      "span",
      { class: "progress", role: "progressbar", "aria-label": "Finished runs" },
      this.filled,
    );
    this.time = h("span", { class: "num muted" });
    this.now = new MemoView(h("span", { class: "exp-now" }));
    this.problem = new MemoView(h("div"));
    this.command = h("code", { id: "exp-command" });
    this.element = h(
      "header",
      { class: "exp-head" },
      h(
        "div",
        { class: "page-bar" },
        h(
          "nav",
          { class: "crumbs", "aria-label": "Breadcrumb" },
          link("Experiments", "experiments"),
          this.name,
        ),
        this.status,
        this.kind,
        h("span", { class: "spacer" }),
        this.csv,
        this.acts,
      ),
      this.question,
      this.description,
      h(
        "div",
        { class: "exp-state" },
        this.bar,
        this.count,
        this.time,
        this.now.element,
        h("span", { class: "spacer" }),
        h(
          "span",
          { class: "exp-command" },
          h("span", { class: "muted", text: "To reproduce" }),
          this.command,
          copyButton("Copy", () => this.command.textContent),
        ),
      ),
      this.problem.element,
    );
  }

  /** @param {Experiment} experiment */
  show(experiment) {
    this.experiment = experiment;
    set(this.name, plain(experiment.title || experiment.name, 80));
    this.status.className = `status ${experiment.status}`;
    set(this.status, experiment.status);
    set(this.kind, `${experiment.quick ? "quick look" : "full"}, ${seeds(experiment.seeds)}`);
    this.csv.setAttribute("href", address(`experiments/${experiment.id}/results.csv`));
    set(this.question, plain(experiment.question, 1000));
    set(this.description, plain(experiment.description, 2000));
    this.description.hidden = !experiment.description;
    set(this.command, plain(experiment.command, 1000));
    this.showProgress(experiment);
    this.showActions(experiment);
    this.problem.show(experiment.error_text, () => problemOf(experiment));
  }

  /** @param {Experiment} experiment */
  showProgress(experiment) {
    this.bar.setAttribute("aria-valuenow", String(experiment.done));
    this.bar.setAttribute("aria-valuemax", String(experiment.total));
    this.filled.style.width = `${experiment.total ? Math.min(100, (experiment.done / experiment.total) * 100) : 0}%`;
    this.bar.hidden = experiment.status === "finished";
    set(this.count, `${integer(experiment.done)} of ${integer(experiment.total)} runs`);
    this.showTime();
    const busy = experiment.status === "running";
    const running = busy ? runsOf(experiment).filter((run) => run.status === "running") : [];
    this.now.show([busy && experiment.phase, running.map((run) => run.id)], () => [
      busy && experiment.phase && h("span", { text: plain(experiment.phase, 160) }),
      running.map((run) =>
        link(`Watch the run${running.length > 1 ? ` of seed ${run.seed}` : ""}`, page("run", { id: run.id })),
      ),
    ]);
  }

  showTime() {
    const { created_at: start, finished_at: end } = this.experiment;
    const took = duration((end ?? now() / 1000) - start);
    set(this.time, end ? `took ${took}, finished ${ago(end)}` : `running for ${took}`);
    this.time.title = exact(end ?? start);
  }

  /** The button changes only with the status; what had the focus hands it on. @param {Experiment} experiment */
  showActions(experiment) {
    if (this.actsFor === experiment.status) return;
    this.actsFor = experiment.status;
    const focused = this.acts.contains(document.activeElement);
    const action = actionOf(experiment, this.on);
    fill(this.acts, action);
    if (focused) (action ?? this.csv).focus();
  }
}

/** @param {Element} element @param {string} text */
function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** @param {Experiment} experiment @param {ExperimentActions} on */
function actionOf({ status }, on) {
  if (status === "running")
    return button("Cancel", () => on.cancel(), {
      class: "btn danger",
      id: "exp-cancel",
      title: "Stops its runs; the experiment can be resumed",
    });
  if (RESUMABLE.includes(status))
    return button("Resume", () => on.resume(), {
      class: "btn strong",
      id: "exp-resume",
      title: "Keeps finished runs and continues the others",
    });
  return null;
}

/** Every run of an experiment: those of the tuning, then those that count. @param {Experiment} experiment */
export function runsOf(experiment) {
  return experiment.arms.flatMap((arm) => [...arm.choices.flatMap((choice) => choice.runs), ...arm.runs]);
}

/** @param {Experiment} experiment */
function problemOf(experiment) {
  if (!experiment.error_text) return [];
  const text = experiment.error_text
    .split("\n")
    .map((line) => plain(line, 2000))
    .join("\n");
  return h(
    "section",
    { class: "panel problem", role: "alert" },
    h("h2", { text: experiment.status === "failed" ? "The experiment failed" : "The experiment stopped" }),
    h("pre", { class: "wrap", text }),
  );
}
