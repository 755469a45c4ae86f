// The head of a run's page: name, state, progress, figures, what went wrong, what can be done.
import { page } from "./api.js";
import { button, fill, h, link } from "./dom.js";
import { ago, bytes, coach, duration, exact, integer, nats, percent, plain, short, withUnit } from "./format.js";
import { diskTitle, elapsed, models } from "./runs_row.js";

const RESUMABLE = ["interrupted", "failed", "cancelled"];

export class RunHead {
  constructor(on) {
    this.on = on;
    this.line = h("div", { class: "page-bar" });
    this.bar = h("div", { class: "run-progress" });
    this.facts = h("dl", { class: "figures run-facts" });
    this.problem = h("div");
    this.worst = h("span");
    this.all = h("span");
    this.trained = h("p", { class: "muted run-trained", id: "trained" });
    this.element = h("header", { class: "run-head" }, this.line, h("div", { class: "run-state" }, this.bar), this.facts, this.trained, this.problem);
  }

  /** The rollout with the worst token, once there is one. */
  offer(rollout, total) {
    fill(this.worst, rollout && link("Open the worst rollout", page("rollout", { id: rollout.id, sort: "-kl_max", at: 0 }), { class: "btn strong", id: "open-worst" }));
    this.total = total;
  }

  show(run, charts) {
    this.showLine(run);
    this.showProgress(run, charts);
    this.showFacts(run, charts);
    this.showProblem(run);
  }

  showLine(run) {
    const print = JSON.stringify([run.id, run.name, run.status, run.cancel_mode, run.tags, this.total]);
    if (print === this.print) return;
    this.print = print;
    const rollouts = link(`Rollouts${this.total ? ` ${integer(this.total)}` : ""}`, page("rollouts", { run: run.id }), { class: "btn" });
    fill(
      this.line,
      h("nav", { class: "crumbs", "aria-label": "Place" }, link("Runs", "./"), h("h1", { text: plain(run.name || run.id, 80) })),
      h("span", { class: `status ${run.status}`, text: run.cancel_mode && run.status === "running" ? "stopping" : run.status }),
      (run.tags ?? []).map((tag) => h("span", { class: "tag", text: plain(tag, 24) })),
      h("span", { class: "spacer" }),
      this.worst, rollouts, link("Clone with changes", page("new", { from: run.id }), { class: "btn" }), this.actions(run),
    );
  }

  actions(run) {
    if (run.status === "queued") return button("Cancel", () => this.on.cancel("discard"), { class: "btn danger" });
    if (RESUMABLE.includes(run.status)) return button("Resume", () => this.on.resume(), { class: "btn", id: "resume" });
    if (run.status !== "running") return null;
    const items = [
      button("Stop and save", () => this.on.cancel("save"), { class: "btn quiet", title: "Ends after a checkpoint; can be resumed from it" }),
      button("Stop and discard", () => this.on.cancel("discard"), { class: "btn quiet", title: "Ends at once, without a checkpoint" }),
    ];
    return h("details", { class: "menu", id: "stop" }, h("summary", { class: "btn danger" }, "Stop"), h("div", { class: "popup menu-items" }, items));
  }

  showProgress(run, charts) {
    const share = run.steps ? Math.min(1, run.step / run.steps) : 0;
    const each = charts.secondsPerStep();
    const left = run.status === "running" && each ? (run.steps - run.step) * each : null;
    fill(
      this.bar,
      h("span", { class: "progress", role: "progressbar", "aria-valuenow": run.step, "aria-valuemax": run.steps, "aria-label": "Steps" }, h("span", { style: { width: `${share * 100}%` } })),
      h("span", { class: "num", text: `step ${integer(run.step)} of ${integer(run.steps)}` }),
      run.started_at && h("span", { class: "num muted", text: duration(elapsed(run)) }),
      left !== null && h("span", { class: "num", text: `about ${duration(left)} left` }),
      run.phase && ["running", "queued"].includes(run.status) && h("span", { class: "muted", text: plain(run.phase, 120) }),
    );
  }

  showFacts(run, charts) {
    const kl = charts.columns.reverse_kl ?? [];
    const first = kl.find((v) => v !== null && v !== undefined);
    const speed = charts.tokensPerSecond();
    const rows = [
      ["Student ← coach", models(run)],
      ["KL, nats a token", first === undefined ? nats(run.kl) : [h("span", { class: "muted", text: `${nats(first)} → ` }), nats(run.kl)]],
      ["Score", run.score === null ? "–" : [run.score_start === null ? "" : h("span", { class: "muted", text: `${percent(run.score_start)} → ` }), percent(run.score)]],
      ["Tokens", [short(run.tokens), h("span", { class: "muted", text: speed && ` · ${speed}` })]],
      ["Compute", run.flops ? withUnit(run.flops, "FLOP") : "–"],
      ["Disk", h("span", { title: diskTitle(run), text: bytes(run.bytes + (run.disk?.files ?? 0)) })],
      ["Objective", h("span", { title: coach(plain(run.trained ?? "", 600)), text: plain(run.objective ?? "–", 40) })],
      [run.started_at ? "Started" : "Created", h("span", { title: exact(run.started_at ?? run.created_at), text: ago(run.started_at ?? run.created_at) })],
    ];
    fill(this.facts, rows.map(([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", {}, value))));
    const title = `${plain(run.student ?? "", 200)} ← ${plain(run.teacher ?? "", 200)}`;
    this.facts.firstChild.title = title;
    this.trained.textContent = run.trained ? `Trained: ${coach(plain(run.trained, 600))}.` : "";
  }

  showProblem(run) {
    const bad = run.error_kind || run.error_text;
    const print = bad ? [run.error_kind, run.error_text, run.hint].join("\n") : "";
    if (print === this.problemPrint) return;
    this.problemPrint = print;
    fill(
      this.problem,
      bad && h(
        "section", { class: "panel problem", role: "alert" },
        h("h2", { text: plain(run.error_kind || "It ended with an error", 120) }),
        h("pre", { class: "wrap", text: visible(run.error_text ?? "") }),
        run.hint && h("p", {}, h("strong", { text: "What to change: " }), plain(run.hint, 600)),
      ),
    );
  }
}

function visible(text) {
  return text.split("\n").map((line) => plain(line, 2000)).join("\n");
}
