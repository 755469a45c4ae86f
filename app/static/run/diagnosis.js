// Automatic checks of a run: findings with evidence, the tokens that show them, what to change.
import { get, page } from "../lib/api.js";
import { fill, h, link } from "../lib/dom.js";
import { integer, number, percent } from "../lib/format.js";
import { failed, loading } from "../lib/panel_states.js";
import { glyphs } from "../rollout/text/glyphs.js";

const EVERY = 15_000; // ms between two looks, at least
const WORDS = { error: "Fault", warning: "Warning", info: "Note" };

export class Diagnosis {
  /** @type {boolean} */
  owed;
  /** @type {boolean} */
  busy;
  /** @type {number} */
  timer;
  /** @type {string} */
  print;

  /** @param {string} run */
  constructor(run) {
    this.run = run;
    this.last = -EVERY;
    this.open = new Set();
    this.count = h("span", { class: "muted num" });
    this.body = h("div", { class: "diagnosis-body", "aria-live": "polite" });
    this.head = h("header", {}, h("h2", { text: "Diagnosis" }), h("span", { class: "spacer" }), this.count);
    this.element = h(
      "section",
      { class: "panel diagnosis", "aria-label": "Diagnosis" },
      this.head,
      this.body,
    );
    loading(this.body, "the diagnosis");
    document.addEventListener("visibilitychange", () => this.owed && this.refresh());
  }

  /** Looks again, now or once the last look is old enough; the page need not wait for it. */
  async refresh() {
    clearTimeout(this.timer);
    this.owed = true;
    if (document.hidden || this.busy) return;
    const wait = this.last + EVERY - performance.now();
    if (wait > 0) this.timer = setTimeout(() => this.refresh(), wait);
    else this.look();
  }

  async look() {
    this.owed = false;
    this.busy = true;
    try {
      const answer = await get(`runs/${this.run}/diagnosis`);
      const print = JSON.stringify(answer);
      if (print !== this.print) this.draw(answer);
      this.print = print;
    } catch (error) {
      this.print = "";
      this.count.textContent = "";
      this.head.hidden = false;
      failed(this.body, error, () => this.look());
    }
    this.last = performance.now();
    this.busy = false;
    if (this.owed) this.refresh();
  }

  /** @param {DiagnosisReport} answer */
  draw(answer) {
    const { items, looked_at: seen } = answer;
    const focused = document.activeElement?.closest("[data-code]")?.getAttribute("data-code");
    this.element.dataset.findings = String(items.length);
    this.count.textContent = items.length
      ? `${items.length} ${items.length === 1 ? "finding" : "findings"} in ${amount(seen)}`
      : "";
    this.head.hidden = !items.length; // without findings it is one line
    fill(
      this.body,
      items.map((item) => this.finding(item)),
      this.rest(answer),
    );
    if (focused)
      this.body.querySelector(/** @type {"summary"} */ (`[data-code="${focused}"] > summary`))?.focus();
  }

  /** @param {string} code @param {Child} summary @param {...Child} parts */
  foldable(code, summary, ...parts) {
    const element = h(
      "details",
      { class: "diagnosis-item", data: { code }, open: this.open.has(code) },
      h("summary", {}, summary),
      ...parts,
    );
    element.addEventListener("toggle", () => (element.open ? this.open.add(code) : this.open.delete(code)));
    return element;
  }

  /** @param {DiagnosisFinding} item */
  finding(item) {
    const word = WORDS[item.severity] ?? item.severity;
    const title = [
      h(
        "span",
        { class: `severity ${item.severity}` },
        h("span", { class: "severity-icon", "aria-hidden": "true", text: "!" }),
        h("span", { text: word }),
      ),
      h("strong", { text: item.title }),
    ];
    return this.foldable(
      item.code,
      title,
      h(
        "div",
        { class: "diagnosis-more" },
        h(
          "div",
          {},
          h("p", { text: glyphs(item.text) }),
          h(
            "p",
            { class: "diagnosis-advice" },
            h("strong", { text: "What to change: " }),
            glyphs(item.advice),
          ),
          this.links(item),
        ),
        table(item.evidence),
      ),
    );
  }

  /** @param {DiagnosisFinding} item */
  links(item) {
    const rows = item.rollouts.map((r) =>
      h(
        "li",
        {},
        link(
          `step ${r.step}${r.position === null ? "" : `, position ${r.position}`}`,
          page("rollout", { id: r.id, pos: r.position }),
        ),
        ` ${glyphs(r.why)}`,
      ),
    );
    const all = link("All matching rollouts", page("rollouts", { run: this.run, ...item.filter }));
    return h("ul", { class: "diagnosis-links", "aria-label": "Where to see it" }, rows, h("li", {}, all));
  }

  /** What was looked at without a finding, folded. @param {DiagnosisReport} diagnosisReport */
  rest({ items, silent, looked_at: seen }) {
    const enough = seen.enough;
    let says = items.length
      ? `${silent.filter((s) => s.judged).length} other checks passed`
      : `No problems found in ${amount(seen)}`;
    const open = silent.filter((s) => !s.judged).length;
    if (open) says += ` · ${open} of ${silent.length + items.length} checks had too little data`;
    if (!items.length && !enough)
      says = seen.rollouts ? `Too little data yet: ${amount(seen)}` : "No data yet: no rollouts are stored";
    const why =
      !enough &&
      !items.length &&
      h("p", {
        class: "muted",
        text: "The checks need a few hundred tokens and eight steps, and run again as steps finish. records.every and records.rollouts_per_step set which rollouts are stored.",
      });
    return this.foldable(
      "",
      [!items.length && h("h2", { text: "Diagnosis" }), h("span", { class: "muted", text: says })],
      h("div", { class: "diagnosis-more wide" }, why, checks(silent), note(seen)),
    );
  }
}

/** @param {DiagnosisSample} seen */
function amount(seen) {
  return `${integer(seen.rollouts)} ${seen.rollouts === 1 ? "rollout" : "rollouts"}, ${integer(seen.tokens)} tokens`;
}

/** @param {DiagnosisSample} seen */
function note(seen) {
  const parts = [`${integer(seen.steps)} steps`];
  if (seen.skipped) parts.push(`${integer(seen.skipped)} more rollouts were skipped, evenly over the run`);
  if (seen.damaged) parts.push(`${integer(seen.damaged)} damaged records could not be read`);
  return h("p", { class: "muted", text: `Checked ${amount(seen)}: ${parts.join("; ")}.` });
}

/** @param {Evidence[]} evidence */
function table(evidence) {
  const rows = evidence.map((e) =>
    h(
      "tr",
      {},
      h("th", { scope: "row", text: e.label }),
      h("td", { class: "r num", text: amountOf(e.value, e.unit) }),
      h("td", { class: "r num muted", text: limit(e) }),
    ),
  );
  return h(
    "table",
    { class: "diagnosis-evidence" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col", text: "Evidence" }),
        h("th", { class: "r", scope: "col", text: "measured" }),
        h("th", { class: "r", scope: "col", text: "fault if" }),
      ),
    ),
    h("tbody", {}, rows),
  );
}

/** @param {DiagnosisCheck[]} silent */
function checks(silent) {
  const rows = silent.map((s) => {
    const e = s.evidence[0];
    const cells = e
      ? [
          h("td", { text: e.label }),
          h("td", { class: "r num", text: amountOf(e.value, e.unit) }),
          h("td", { class: "r num muted", text: limit(e) }),
        ]
      : [h("td", { class: "muted", colspan: "3", text: `Not checked: ${s.why}` })];
    return h("tr", { data: { check: s.code } }, h("th", { scope: "row", text: s.title }), cells);
  });
  return h(
    "table",
    { class: "diagnosis-evidence" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col", text: "Check" }),
        h("th", { scope: "col", text: "Evidence" }),
        h("th", { class: "r", scope: "col", text: "measured" }),
        h("th", { class: "r", scope: "col", text: "fault if" }),
      ),
    ),
    h("tbody", {}, rows),
  );
}

/** @param {Evidence} e */
function limit(e) {
  if (!e.fires || e.threshold === null) return "";
  const sign = e.fires === "above" ? "≥" : "<";
  if (e.unit === "share") return `${sign} ${percent(e.threshold)}`;
  return `${sign} ${Number(e.threshold.toPrecision(2))}${e.unit ? ` ${e.unit}` : ""}`;
}

/** @param {number | null} value @param {string} unit */
function amountOf(value, unit) {
  if (value === null) return "–";
  if (unit === "share") return percent(value, Math.abs(value) < 0.1 && value !== 0 ? 1 : 0);
  if (unit === "×") return `${number(value, 2)} ×`;
  if (Number.isInteger(value)) return unit ? `${integer(value)} ${unit}` : integer(value);
  return unit ? `${number(value)} ${unit}` : number(value);
}
