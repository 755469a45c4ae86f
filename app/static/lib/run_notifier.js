// Browser notifications when a run ends, for visitors who switched them on.
import { page } from "./api.js";
import { button, h } from "./dom.js";
import { isLive, number, percent, plain } from "./format.js";
import { recall, remember } from "./theme.js";

const MARK = "● ";

export class RunNotifier {
  /** `what` ends: "it" on a run's page, "one" where there are many. */
  constructor(what = "it") {
    this.what = what;
    /** @type {Map<string, RunStatus>} */
    this.seen = new Map(); // run id → its last status
    this.control = button("", () => this.toggle(), { class: "btn small quiet", id: "notify" });
    this.state = h("span", { class: "muted notify-state", role: "status" });
    this.element = h("span", { class: "notify" }, this.control, this.state);
    const clear = () => !document.hidden && this.unmark();
    document.addEventListener("visibilitychange", clear);
    window.addEventListener("focus", clear);
    document.addEventListener("pointerdown", clear);
    this.show();
  }

  /** To be called with every state of a run, or of each run of a list. @param {Run} run */
  update(run) {
    const before = this.seen.get(run.id);
    this.seen.set(run.id, run.status);
    if (this.what === "it") this.element.hidden = !isLive(run.status);
    if (!before || !isLive(before) || isLive(run.status) || !this.enabled) return;
    this.tell(run);
  }

  get enabled() {
    return recall("notify", "off") === "on";
  }

  async toggle() {
    remember("notify", this.enabled ? "off" : "on");
    this.show();
    if (this.enabled && permission() === "default") {
      await Notification.requestPermission();
      this.show();
    }
  }

  show() {
    this.control.textContent = `${this.enabled ? "Notifying" : "Notify me"} when ${this.what} ends`;
    this.control.setAttribute("aria-pressed", String(this.enabled));
    const blocked = this.enabled && permission() !== "granted";
    this.state.textContent = blocked
      ? "This browser blocks notifications; the page title is marked instead."
      : "";
  }

  /** @param {Run} run */
  tell(run) {
    const title = `${plain(run.name || run.id, 60)}: ${run.status}`;
    if (permission() !== "granted") return this.mark(run);
    try {
      const shown = new Notification(title, { body: bodyOf(run), tag: `opd-${run.id}-${run.attempt ?? 0}` });
      shown.onclick = () => {
        window.focus();
        location.href = page("run", { id: run.id });
      };
    } catch {
      this.mark(run); // some phones know the permission but refuse this way of asking
    }
  }

  /** @param {Run} run */
  mark(run) {
    this.unmark();
    this.title = document.title;
    document.title = `${MARK}${run.status}: ${this.title}`;
  }

  unmark() {
    if (this.title === undefined) return;
    document.title = this.title;
    this.title = undefined;
  }
}

function permission() {
  return "Notification" in window && window.isSecureContext ? Notification.permission : "denied";
}

/** @param {Run} run */
function bodyOf(run) {
  const score = run.score === null || run.score === undefined ? "" : `score ${percent(run.score)}`;
  const kl = run.kl === null || run.kl === undefined ? "" : `KL ${number(run.kl)}`;
  return [`step ${run.step} of ${run.steps}`, score, kl, plain(run.error_kind ?? "", 60)]
    .filter(Boolean)
    .join(" · ");
}
