// Five steps that tell the story on a run of the bundled pair: mistakes, judgement, training,
// the same prompt afterwards, what it cost. Reads only.
import { get, newKey, page, send } from "../lib/api.js";
import { button, fill, h, inField, link, poll, select, toast } from "../lib/dom.js";
import { ago, isLive, plain } from "../lib/format.js";
import { empty, errorBox, failed, loading } from "../lib/panel_states.js";
import { onTheme } from "../lib/theme.js";
import { usePalette } from "../lib/tints.js";
import { readStory } from "./data.js";
import { STEPS } from "./steps.js";

const LIVE = 2000; // ms
const LOOKED_AT = 200; // newest runs

/** @param {HTMLElement} root @param {URLSearchParams} params */
export function mount(root, params) {
  document.title = "Tour · OPD Studio";
  new Tour(root, params).start();
}

class Tour {
  /** @type {Run | undefined} */
  run;
  /** @type {TourStep[]} */
  pieces;
  /** @type {HTMLButtonElement} */
  back;
  /** @type {HTMLButtonElement} */
  next;
  /** @type {HTMLButtonElement[]} */
  marks;
  /** @type {HTMLElement} */
  notice;
  /** @type {HTMLElement} */
  stage;
  /** @type {HTMLElement} */
  of;
  /** @type {Run[]} those that the tour can tell, newest first */
  offered = [];
  /** @type {Story | undefined} */
  story;

  /** @param {HTMLElement} root @param {URLSearchParams} params */
  constructor(root, params) {
    this.root = root;
    this.id = params.get("run") ?? "";
    this.step = stepOf(params);
    this.key = newKey();
  }

  /** @returns {Promise<unknown>} */
  async start() {
    usePalette("oranges");
    onTheme(() => usePalette("oranges"));
    loading(this.root, "the tour");
    try {
      await this.choose();
    } catch (error) {
      return failed(this.root, error, () => this.start());
    }
    if (this.run) this.open();
  }

  /** The run that is shown: the one named, else the newest of the bundled student, teacher and prompts. */
  async choose() {
    /** @type {[Page<Run>, Run | null]} */
    const [{ items }, named] = await Promise.all([
      get("runs", { limit: LOOKED_AT }),
      this.id ? get(`runs/${this.id}`) : null,
    ]);
    this.offered = items.filter((run) => run.bundled);
    if (named && !named.bundled) return this.drawOther(named);
    this.run =
      named ??
      this.offered.find((run) => ["finished", "running"].includes(run.status)) ??
      this.offered.find((run) => run.status === "queued");
    if (!this.run) return this.drawEmpty(this.offered[0]);
    this.id = this.run.id;
    if (!this.offered.some((run) => run.id === this.id)) this.offered.unshift(this.run);
  }

  /** A run of other models or prompts: its mistakes are not those that the tour speaks of. @param {Run} run */
  drawOther(run) {
    const [first] = this.offered;
    empty(
      this.root,
      "The tour cannot tell this run",
      `Its sentences are about the bundled student, teacher and problems; ${plain(run.name || run.id, 60)} has others.`,
      h(
        "div",
        { class: "row" },
        first && link("Tour of a demo run", page("tour", { run: first.id }), { class: "btn strong" }),
        link("This run's own page", page("run", { id: run.id }), { class: "btn" }),
      ),
    );
  }

  /** @param {Run | undefined} other */
  async drawEmpty(other) {
    const { access } = await get("health");
    const start = button("Start the demo run", () => this.startDemo(start), {
      class: "btn strong",
      "data-start-demo": true,
    });
    const why = other
      ? `The last demo run is ${other.status}. `
      : "The tour uses the numbers of a run of the bundled student, coach and problems. ";
    const next =
      access === "full"
        ? "It takes about a minute on two CPU cores, with no network and no GPU, and the tour begins while it runs."
        : "This link is read-only; the full link is needed to start one.";
    empty(this.root, "No demo run yet", why + next, access === "full" && h("div", { class: "row" }, start));
  }

  /** @param {HTMLButtonElement} start */
  async startDemo(start) {
    start.disabled = true;
    try {
      const { id } = await send("POST", "runs", { recipe: "demo", request_key: this.key });
      location.href = page("tour", { run: id });
    } catch (error) {
      start.disabled = false;
      toast([error.message, error.hint].filter(Boolean).join(". "));
    }
  }

  open() {
    this.build();
    this.go(this.step, true);
    this.refresh();
    poll(LIVE, () => this.isLive() && this.refresh());
    addEventListener("popstate", () => this.go(stepOf(new URLSearchParams(location.search)), true));
    document.addEventListener("keydown", (event) => this.keys(event));
  }

  isLive() {
    return !this.story || isLive(this.story.run.status);
  }

  build() {
    this.pieces = STEPS.map((Step) => new Step());
    this.back = button("Back", () => this.go(this.step - 1), {
      class: "btn tour-btn",
      id: "tour-back",
      "aria-keyshortcuts": "ArrowLeft",
    });
    this.next = button("Next", () => this.go(this.step + 1), {
      class: "btn strong tour-btn",
      id: "tour-next",
      "aria-keyshortcuts": "ArrowRight",
    });
    this.marks = this.pieces.map((piece, number) =>
      button(piece.short, () => this.go(number + 1), { class: "tour-mark", "data-step": number + 1 }),
    );
    this.notice = h("div");
    this.stage = h("section", { class: "tour-stage", "aria-live": "polite" });
    this.of = h("span", { class: "muted" });
    const choices = this.offered.map(
      (run) => /** @type {Option} */ ([run.id, `${plain(run.name || run.id, 48)}, ${ago(run.created_at)}`]),
    );
    const other = select(choices, this.id, (id) => (location.href = page("tour", { run: id })), {
      id: "tour-run",
      "aria-label": "Run that the tour tells",
    });
    const nav = h(
      "nav",
      { class: "tour-nav", "aria-label": "Steps of the tour" },
      this.back,
      h("span", { class: "tour-marks" }, this.marks),
      h("span", { class: "muted tour-keys" }, h("kbd", { text: "←" }), h("kbd", { text: "→" })),
      this.next,
    );
    fill(
      this.root,
      h("div", { class: "tour-of" }, choices.length > 1 && other, this.of),
      this.notice,
      this.stage,
      nav,
    );
  }

  /** @param {number} step */
  go(step, still = false) {
    if (step < 1 || step > STEPS.length) return;
    this.step = step;
    const query = page("tour", { run: this.id, step });
    if (still) history.replaceState(null, "", query);
    else history.pushState(null, "", query);
    this.back.disabled = step === 1;
    this.next.disabled = step === STEPS.length;
    for (const [number, mark] of this.marks.entries()) {
      if (number + 1 === step) mark.setAttribute("aria-current", "step");
      else mark.removeAttribute("aria-current");
    }
    fill(this.stage, this.pieces[step - 1].element);
    this.stage.dataset.step = String(step);
    this.draw();
  }

  async refresh() {
    try {
      this.story = await readStory(this.id, this.story);
      fill(this.notice);
    } catch (error) {
      fill(
        this.notice,
        errorBox(error, () => this.refresh()),
      );
    }
    this.draw();
  }

  draw() {
    if (!this.story) return;
    const { run } = this.story;
    fill(
      this.of,
      "Shown with ",
      link(plain(run.name || run.id, 60), page("run", { id: run.id })),
      `, ${run.status}${run.status === "running" ? `, step ${run.step} of ${run.steps}` : ""}`,
    );
    this.pieces[this.step - 1].show(this.story);
  }

  /** @param {KeyboardEvent} event */
  keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || inField(event)) return;
    if (event.key === "ArrowRight") this.go(this.step + 1);
    else if (event.key === "ArrowLeft") this.go(this.step - 1);
    else return;
    event.preventDefault();
  }
}

/** @param {URLSearchParams} params */
function stepOf(params) {
  const step = Math.round(Number(params.get("step")));
  return step >= 1 && step <= STEPS.length ? step : 1;
}
