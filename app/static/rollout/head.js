// The line above the text: where this rollout belongs, its sums, and its neighbours.
import { page } from "../lib/api.js";
import { button, copyButton, fill, h, link } from "../lib/dom.js";
import { integer, nats, plain, sum, verdict } from "../lib/format.js";
import { Answers, isGraded } from "./answers.js";
import { markSign } from "./marks/note.js";
import { TeacherPrompt, teacherTag } from "./teachers.js";

/** @type {Record<string, string>} */
const SORTS = {
  kl_sum: "KL sum",
  kl_mean: "KL mean",
  kl_max: "KL max",
  tokens: "length",
  step: "step",
  reward: "reward",
};

export class RolloutHead {
  /**
   * @param {(step: number) => unknown} go @param {(reader: PromptReader) => unknown} read
   * @param {(() => unknown) | null} mark null where nothing can be marked
   */
  constructor(go, read, mark) {
    this.path = h("nav", { class: "crumbs", "aria-label": "Breadcrumbs" });
    this.facts = h("div", { class: "rt-facts" });
    this.inList = h("span", { class: "muted num" });
    this.inRun = h("span", { class: "tag num", hidden: true, role: "status" });
    this.before = button("Prev", () => go(-1), { class: "btn small", title: "Previous rollout (k)" });
    this.after = button("Next", () => go(1), { class: "btn small", title: "Next rollout (j)" });
    this.mark = button("Mark", mark, {
      class: "btn small",
      title: "Mark this rollout with a note (B)",
      id: "mark-rollout",
    });
    this.mark.hidden = !mark;
    this.share = copyButton("Copy link", () => location.href);
    this.share.classList.add("small");
    this.share.title = "The address opens what you see: rollout, token, metric, tab";
    this.answers = new Answers();
    this.teacherPrompt = new TeacherPrompt(read);
    this.element = h(
      "header",
      { class: "rt-head" },
      this.path,
      this.facts,
      h("span", { class: "spacer" }),
      this.inRun,
      this.inList,
      this.before,
      this.after,
      this.mark,
      this.share,
    );
  }

  /** @param {Rollout} rollout @param {Record<string, string>} filters @param {PromptReader} reader */
  show({ meta, n, columns }, filters, reader) {
    this.filters = filters;
    this.inRun.hidden = true;
    this.inList.hidden = false;
    const kind = meta.kind === "train" ? "" : `${meta.kind} `;
    fill(
      this.path,
      link("Runs", "./"),
      link(plain(meta.run_name || meta.run_id, 40), page("run", { id: meta.run_id })),
      link("Rollouts", page("rollouts", { run: meta.run_id, ...filters })),
      h("h1", { text: `${kind}step ${meta.step} · prompt ${meta.group} · sample ${meta.sample}` }),
    );
    fill(
      this.facts,
      !isGraded(meta) && verdictTag(meta),
      teacherTag(meta),
      finish(meta.finish_reason),
      AUTHORS[meta.author] && h("span", { class: "tag", text: AUTHORS[meta.author] }),
      meta.teacher_end &&
        h("span", {
          class: "tag",
          text: `teacher’s end ${plain(meta.teacher_end, 24)}`,
          title:
            "teacher.end_token: shown to the teacher in place of the student’s stop token; their probabilities change places",
        }),
      fact("tokens", integer(n)),
      meta.staleness ? stale(meta.staleness) : null,
      columns.reverse_kl && fact("KL", `${sum(meta.kl_sum ?? null)} nats`),
      columns.reverse_kl && fact("mean", `${nats(meta.kl_mean)} nats`),
      columns.reverse_kl && fact("max", `${nats(meta.kl_max)} nats`, "fact extra"),
    );
    this.answers.show(meta, verdictTag(meta));
    this.teacherPrompt.show(meta, reader);
    document.title = `step ${meta.step}, prompt ${meta.group} · OPD Studio`;
  }

  /** Whether the rollout as a whole is marked, and how many of its tokens. @param {readonly RolloutMark[]} marks */
  showMarks(marks) {
    const whole = marks.some(({ position }) => position === null);
    const tokens = marks.length - Number(whole);
    fill(this.mark, whole && markSign(), whole ? "Marked" : "Mark");
    const has = tokens ? `; ${integer(tokens)} of its tokens ${tokens === 1 ? "is" : "are"} marked` : "";
    this.mark.title = `${whole ? "This rollout is marked: read or edit its note" : "Mark this rollout with a note"} (B)${has}`;
  }

  /** An address that could not be opened, before any other could. */
  failed() {
    if (!this.path.childElementCount) fill(this.path, link("Runs", "./"), h("h1", { text: "Rollout" }));
  }

  /** The rank of the pinned token among the worst of the run. @param {number} rank @param {number} total */
  rankOfRun(rank, total) {
    this.inRun.hidden = false;
    this.inList.hidden = true; // there is no room for both
    this.inRun.textContent = `worst token ${integer(rank + 1)} of ${integer(total)} in the run`;
  }

  /**
   * The rollout's index in its list; null where it is not in it.
   * @param {number | null} at @param {number | null} total
   */
  index(at, total) {
    const sort = this.filters?.sort ?? "-kl_sum";
    const by = SORTS[sort.replace("-", "")] ?? sort;
    this.inList.textContent = at === null ? "" : `${integer(at + 1)} of ${integer(total)} by ${by}`;
    this.before.disabled = at === null || at === 0;
    this.after.disabled = at !== null && total !== null && at >= total - 1;
  }
}

/** @type {Record<string, [kind: string, text: string]>} */
const FINISHES = { stop: ["tag", "finished (EOS)"], length: ["tag warn", "truncated (length)"] };
/** @type {Record<string, string>} */
const AUTHORS = { teacher: "written by the teacher", given: "from the dataset" };

/** @param {string | null} reason */
function finish(reason) {
  if (!reason) return null;
  const [kind, text] = FINISHES[reason] ?? ["tag", reason];
  return h("span", { class: kind, text });
}

/** How far behind the weights were that wrote it. @param {number} steps */
function stale(steps) {
  const element = fact("staleness", `${integer(steps)} ${steps === 1 ? "step" : "steps"}`);
  element.title =
    "sampling.lag: written by weights that were this many updates behind those that it trained, while the step before trained";
  return element;
}

/** @param {string} name @param {string} value @param {string} [kind] */
function fact(name, value, kind = "fact") {
  return h(
    "span",
    { class: kind },
    h("span", { class: "muted", text: name }),
    h("span", { class: "num", text: value }),
  );
}

/** @param {Graded} rollout */
export function verdictTag(rollout) {
  const text = verdict(rollout);
  return text ? h("span", { class: `tag ${{ right: "good", wrong: "bad" }[text] ?? ""}`, text }) : null;
}
