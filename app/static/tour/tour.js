// Five steps that tell the story on a run of the bundled pair: mistakes, judgement, training,
// the same prompt afterwards, what it cost. Reads only.
import { get, newKey, page, send } from "../lib/api.js";
import { button, fill, h, inField, link, poll, toast } from "../lib/dom.js";
import { plain } from "../lib/format.js";
import { empty, errorBox, failed, loading } from "../lib/panel_states.js";
import { onTheme } from "../lib/theme.js";
import { usePalette } from "../lib/tints.js";
import { isDemo, readStory } from "./data.js";
import { STEPS } from "./steps.js";

const LIVE = 2000; // ms

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

  /** The run that is shown: the one named, else the newest that trained the bundled pair. */
  async choose() {
    if (this.id) this.run = await get(`runs/${this.id}`);
    else {
      /** @type {Page<Run>} */
      const { items } = await get("runs", { limit: 200 });
      const demos = items.filter(isDemo);
      this.run =
        demos.find((run) => ["finished", "running"].includes(run.status)) ??
        demos.find((run) => run.status === "queued");
      if (!this.run) return this.drawEmpty(demos[0]);
      this.id = this.run.id;
    }
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
      : "The tour uses the numbers of a run of the bundled student and coach. ";
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
    return !this.story || ["running", "queued"].includes(this.story.run.status);
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
    const nav = h(
      "nav",
      { class: "tour-nav", "aria-label": "Steps of the tour" },
      this.back,
      h("span", { class: "tour-marks" }, this.marks),
      h("span", { class: "muted tour-keys" }, h("kbd", { text: "←" }), h("kbd", { text: "→" })),
      this.next,
    );
    fill(this.root, h("div", { class: "tour-of" }, this.of), this.notice, this.stage, nav);
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
