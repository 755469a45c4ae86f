// The head of a run's page: name, state, progress, figures, what went wrong, what can be done.
import { page } from "../lib/api.js";
import { button, fill, h, link } from "../lib/dom.js";
import {
  ago,
  bytes,
  duration,
  exact,
  integer,
  isLive,
  nats,
  percent,
  plain,
  short,
  withUnit,
} from "../lib/format.js";
import { MemoView } from "../lib/memo_view.js";
import { actionMenu } from "../lib/menu.js";
import { teacherNames } from "../rollout/teachers.js";
import { diskTitle } from "../runs/columns.js";
import { runEditor } from "../runs/editor.js";
import { elapsed } from "../runs/row.js";
import { endText, models } from "../runs/texts.js";
import { countsText, shortCount } from "./counts.js";
import { ExportMenu } from "./export_menu.js";
import { peopleText, placeText } from "./people.js";

const RESUMABLE = ["interrupted", "failed", "cancelled"];
const CHANGED = "changed inputs"; // the kind of error of a resume that met other models or data

export class RunHead {
  /** @type {number} */
  total;
  /** @type {RunStatus} */
  actsFor;
  /** @type {string} */
  problemPrint;
  /** @type {GpuState | null} */
  gpu = null;
  /** @type {Run} */
  run;

  /** @param {{cancel: (mode: string) => unknown, resume: () => unknown, accept: () => unknown, remove: () => unknown, saved: () => unknown}} on @param {string} id */
  constructor(on, id) {
    this.on = on;
    this.exports = new ExportMenu(id);
    this.name = h("h1");
    this.status = h("span");
    this.tags = new MemoView(h("span", { class: "run-part" }));
    this.worst = h("span", { class: "run-part" });
    this.openWorst = link("Open the worst rollout", "./", { class: "btn strong", id: "open-worst" });
    this.rollouts = link("Rollouts", "./", { class: "btn" });
    this.clone = link("Clone with changes", "./", { class: "btn" });
    this.acts = h("span", { class: "run-part" });
    this.edit = button("Edit name, tags, notes", () => this.openEditor(), { class: "btn quiet" });
    this.delete = button("Delete", () => this.on.remove(), { class: "btn quiet" });
    this.line = h(
      "div",
      { class: "page-bar" },
      h("nav", { class: "crumbs", "aria-label": "Breadcrumb" }, link("Runs", "./"), this.name),
      this.status,
      this.tags.element,
      h("span", { class: "spacer" }),
      this.worst,
      this.rollouts,
      this.clone,
      this.exports.element,
      this.acts,
      actionMenu([this.edit, this.delete]),
      link("?", `${page("guide", { doc: "inspecting" })}#the-runs-page`, {
        class: "btn small",
        id: "run-guide",
        title: "How to read this page",
        "aria-label": "How to read this page",
      }),
    );
    this.editor = h("div");
    this.notes = h("p", { class: "run-trained", id: "notes" });
    this.bar = h("div", { class: "run-progress" });
    this.facts = h("dl", { class: "figures run-facts" });
    this.problem = h("div");
    this.people = h("p", { class: "muted run-trained", id: "people" });
    this.ended = h("p", { class: "run-trained", id: "end-reason" });
    this.trained = h("p", { class: "muted run-trained", id: "trained" });
    this.teachers = h("p", { class: "muted run-trained", id: "teachers" });
    this.accepted = h("div", { class: "muted run-trained", id: "accepted-changes" });
    this.changes = h("div");
    this.element = h(
      "header",
      { class: "run-head" },
      this.line,
      this.editor,
      this.exports.files.element,
      h("div", { class: "run-state" }, this.bar),
      this.facts,
      this.ended,
      this.people,
      this.notes,
      this.trained,
      this.teachers,
      this.accepted,
      this.problem,
      this.changes,
    );
  }

  /**
   * The rollout with the worst token, once there is one.
   * @param {RolloutItem | null} rollout @param {number} total
   */
  offer(rollout, total) {
    this.total = total;
    if (!rollout) return fill(this.worst);
    const href = page("rollout", { id: rollout.id, sort: "-kl_max", at: 0 });
    this.openWorst.setAttribute("href", href);
    if (!this.openWorst.isConnected) fill(this.worst, this.openWorst);
  }

  /** @param {Run} run @param {RunCharts} charts */
  show(run, charts) {
    this.showLine(run);
    this.showProgress(run, charts);
    this.showFacts(run, charts);
    this.showProblem(run);
  }

  /**
   * Changes the texts of the line; its links and buttons stay, and so does the focus on them.
   * @param {Run} run
   */
  showLine(run) {
    this.name.textContent = plain(run.name || run.id, 80);
    this.status.className = `status ${run.status}`;
    this.status.textContent = run.cancel_mode && run.status === "running" ? "stopping" : run.status;
    this.tags.show(run.tags ?? [], () => (run.tags ?? []).map(tagOf));
    this.rollouts.textContent = `Rollouts${this.total ? ` ${integer(this.total)}` : ""}`;
    this.rollouts.setAttribute("href", page("rollouts", { run: run.id }));
    this.clone.setAttribute("href", page("new", { from: run.id }));
    this.run = run;
    const busy = isLive(run.status);
    this.delete.disabled = busy;
    this.delete.title = busy ? "Stop the run first" : "";
    if (this.actsFor === run.status) return;
    this.actsFor = run.status;
    fill(this.changes);
    const focused = this.acts.contains(document.activeElement);
    fill(this.acts, this.actions(run));
    if (focused) this.rollouts.focus(); // what had the focus is gone
  }

  openEditor() {
    const close = () => fill(this.editor);
    const saved = () => {
      close();
      this.on.saved();
    };
    fill(this.editor, runEditor(this.run, { saved, close }));
    this.editor.querySelector("input")?.focus();
  }

  /** @param {Run} run */
  actions(run) {
    if (run.status === "queued")
      return button("Cancel", () => this.on.cancel("discard"), { class: "btn danger" });
    if (RESUMABLE.includes(run.status))
      return button("Resume", () => this.on.resume(), { class: "btn", id: "resume" });
    if (run.status !== "running") return null;
    const opener = h("summary", { class: "btn danger" }, "Stop");
    /** @param {string} mode */
    const stop = (mode) => {
      menu.open = false;
      opener.focus();
      this.on.cancel(mode);
    };
    const items = [
      button("Stop and save", () => stop("save"), {
        class: "btn quiet",
        title: "Saves a checkpoint first; the run can be resumed from it",
      }),
      button("Stop and discard", () => stop("discard"), {
        class: "btn quiet",
        title: "Stops at once, without saving a checkpoint",
      }),
    ];
    const menu = h(
      "details",
      { class: "menu", id: "stop" },
      opener,
      h("div", { class: "popup menu-items" }, items),
    );
    return menu;
  }

  /** @param {Run} run @param {RunCharts} charts */
  showProgress(run, charts) {
    const share = run.steps ? Math.min(1, run.step / run.steps) : 0;
    const each = charts.secondsPerStep();
    const left = run.status === "running" && each ? (run.steps - run.step) * each : null;
    fill(
      this.bar,
      h(
        "span",
        {
          class: "progress",
          role: "progressbar",
          "aria-valuenow": run.step,
          "aria-valuemax": run.steps,
          "aria-label": "Steps",
        },
        h("span", { style: { width: `${share * 100}%` } }),
      ),
      h("span", { class: "num", text: `step ${integer(run.step)} of ${integer(run.steps)}` }),
      run.started_at && h("span", { class: "num muted", text: duration(elapsed(run)) }),
      run.host && h("span", { class: "muted", id: "place", text: placeText(run) }),
      left !== null && h("span", { class: "num", text: `about ${duration(left)} left` }),
      run.phase && isLive(run.status) && h("span", { class: "muted", text: plain(run.phase, 120) }),
      run.status === "queued" && waiting(run),
    );
  }

  /** @param {Run} run @param {RunCharts} charts */
  showFacts(run, charts) {
    const kl = charts.columns.reverse_kl ?? [];
    const first = kl.find((v) => v !== null && v !== undefined);
    const speed = charts.tokensPerSecond();
    /** @type {[string, Child, string?][]} */
    const rows = [
      [
        "Student ← teacher",
        models(run),
        `${plain(run.student ?? "", 200)} ← ${plain(run.teacher ?? "", 200)}`,
      ],
      [
        "KL, nats per token",
        first === undefined
          ? nats(run.kl)
          : [h("span", { class: "muted", text: `${nats(first)} → ` }), nats(run.kl)],
      ],
      [
        "Score",
        run.score === null
          ? "–"
          : [
              run.score_start === null
                ? ""
                : h("span", { class: "muted", text: `${percent(run.score_start)} → ` }),
              percent(run.score),
              h("span", {
                class: "muted",
                title: countsText(run.evaluation_prompts),
                text: shortCount(run.evaluation_prompts),
              }),
            ],
      ],
      ["Tokens", [short(run.tokens), h("span", { class: "muted", text: speed && ` · ${speed}` })]],
      ...gpuFact(run, this.gpu),
      ["Compute", run.flops ? withUnit(run.flops, "FLOP") : "–"],
      ["Disk", h("span", { title: diskTitle(run), text: bytes(run.bytes + (run.disk?.files ?? 0)) })],
      [
        "Objective",
        h("span", { title: plain(run.trained ?? "", 600), text: plain(run.objective ?? "–", 40) }),
      ],
      [
        run.started_at ? "Started" : "Created",
        h("span", {
          title: exact(run.started_at ?? run.created_at),
          text: ago(run.started_at ?? run.created_at),
        }),
      ],
    ];
    fill(
      this.facts,
      rows.map(([name, value, title]) => h("div", { title }, h("dt", { text: name }), h("dd", {}, value))),
    );
    this.notes.textContent = plain(run.notes ?? "", 2000);
    this.people.textContent = peopleText(run);
    this.ended.textContent = run.end_reason ? endText(run) : "";
    this.teachers.textContent = teachersText(run.teachers ?? []);
    this.trained.textContent = run.trained ? `Trained: ${plain(run.trained, 600)}.` : "";
    fill(
      this.accepted,
      (run.accepted_changes ?? []).map((one) =>
        h("p", {
          text: `Resumed after step ${integer(one.step)} with changes: ${one.changes.map(changeText).join("; ")}.`,
        }),
      ),
    );
  }

  /**
   * What has changed since the run started, and the button that resumes it all the same.
   * @param {ChangedInput[]} changes
   */
  showChanges(changes) {
    const accept = this.acceptButton("resume-anyway");
    fill(
      this.changes,
      h(
        "section",
        { class: "panel problem", role: "alert", id: "changes" },
        h("h2", { text: "Changed since the run started" }),
        h("ul", { class: "changes" }, ...changes.map((change) => h("li", { text: changeText(change) }))),
        h("p", {}, "Restore what changed and resume, or continue with the changes; the run records them."),
        h(
          "p",
          { class: "row" },
          accept,
          button("Not now", () => fill(this.changes), { class: "btn quiet" }),
        ),
      ),
    );
    accept.focus();
  }

  /** @param {string} id */
  acceptButton(id) {
    return button("Resume with the changes", () => this.on.accept(), { class: "btn", id });
  }

  /** @param {Run} run */
  showProblem(run) {
    const bad = run.error_kind || run.error_text;
    const print = bad ? [run.error_kind, run.error_text, run.hint].join("\n") : "";
    if (print === this.problemPrint) return;
    this.problemPrint = print;
    fill(
      this.problem,
      bad &&
        h(
          "section",
          { class: "panel problem", role: "alert" },
          h("h2", { text: plain(run.error_kind || "The run failed", 120) }),
          h("pre", { class: "wrap", text: visible(run.error_text ?? "") }),
          run.hint && h("p", {}, h("strong", { text: "What to change: " }), plain(run.hint, 600)),
          run.error_kind === CHANGED && h("p", {}, this.acceptButton("accept-changes")),
        ),
    );
  }
}

/** @param {Teacher[]} teachers */
function teachersText(teachers) {
  if (!teachers.length) return "";
  return `${teachers.length > 1 ? "Teachers" : "Teacher"}: ${teacherNames(teachers)}.`;
}

/** @param {ChangedInput} change */
function changeText(change) {
  return `${plain(change.field, 200)}: ${plain(change.text, 300)}`;
}

/** @param {string} text */
function visible(text) {
  return text
    .split("\n")
    .map((line) => plain(line, 2000))
    .join("\n");
}

/** A tag; that of an experiment leads back to it. @param {string} tag */
function tagOf(tag) {
  return /^exp-[a-z0-9]{1,28}$/.test(tag)
    ? link(tag, page("experiment", { id: tag }), { class: "tag" })
    : h("span", { class: "tag", text: plain(tag, 24) });
}

/**
 * What a running run's GPU is doing now, where its driver tells.
 * @param {Run} run @param {GpuState | null} gpu @returns {[string, Child, string?][]}
 */
function gpuFact(run, gpu) {
  if (run.status !== "running" || !gpu?.name) return [];
  const [used, total] = [gpu.total === null || gpu.free === null ? null : gpu.total - gpu.free, gpu.total];
  const parts = [
    used === null ? "" : `${giga(used)} of ${giga(total)} GB`,
    gpu.use === null ? "" : `${Math.round(gpu.use)}%`,
  ];
  const title = `${plain(gpu.name, 80)}, ${gpu.slot}: memory that all programs hold, and its use in the last second`;
  return [["GPU", parts.filter(Boolean).join(" · ") || plain(gpu.name, 40), title]];
}

/** @param {number | null} value */
function giga(value) {
  return Math.round((value ?? 0) / 1e9);
}

/** What a queued run waits for: the runs that have the devices it may take, or else. @param {Run} run */
function waiting(run) {
  const slots = Object.entries(run.waits_for ?? {});
  const parts = slots.flatMap(([slot, other]) => [
    `, ${slot} in use by `,
    h("a", { href: page("run", { id: other }), text: other }),
  ]);
  if (parts.length) return h("span", { class: "muted", id: "waits-for" }, "waiting for the device", parts);
  const reason = plain(run.waits_because ?? "", 300);
  return reason && h("span", { class: "muted", id: "waits-for", text: `waiting: ${reason}` });
}
