// What people have marked in a run: each token in context or rollout, with its note, a click away.
import { address, CHANGEABLE, get, page, send } from "../lib/api.js";
import { button, fill, h, link, toast } from "../lib/dom.js";
import { exact, integer, plain } from "../lib/format.js";
import { markSign, noteText } from "../rollout/marks/note.js";
import { bounded, glyphs } from "../rollout/text/glyphs.js";

const STEP = 20;
const EXCERPT = 200;

export class RunMarks {
  /** @param {string} run */
  constructor(run) {
    this.run = run;
    this.limit = STEP;
    this.print = "";
    this.count = h("span", { class: "muted num" });
    this.list = h("div");
    const name = `${run}-marked-prompts.jsonl`;
    this.about = h("p", { class: "caption", id: "marked-prompts" });
    this.prompts = link("Prompts (JSON lines)", address(`runs/${run}/marked-prompts.jsonl`), {
      class: "btn small",
      download: name,
      title: "The prompts of marked rollouts, each once, as a data file to train or to evaluate on",
    });
    const rollouts = link("Marked rollouts", page("rollouts", { run, marked: "true" }), {
      class: "btn small quiet",
    });
    this.element = h(
      "section",
      { class: "panel", "aria-label": "Marks", id: "marks", hidden: true },
      h(
        "header",
        {},
        h("h2", { text: "Marks" }),
        this.count,
        h("span", { class: "spacer" }),
        CHANGEABLE && [rollouts, this.prompts],
      ),
      this.list,
      CHANGEABLE && this.about,
    );
  }

  async refresh() {
    /** @type {Page<ListedMark> & {prompts: MarkedPrompts}} */
    const { items, total, prompts } = await get(`runs/${this.run}/marks`, { limit: this.limit });
    const print = JSON.stringify([items, total, prompts]);
    if (print === this.print) return;
    this.print = print;
    this.element.hidden = total === 0;
    this.count.textContent = integer(total);
    const rows = items.map((mark) => (mark.step === null ? this.gone(mark) : row(mark)));
    const more = () => {
      this.limit += STEP;
      return this.refresh();
    };
    const pager =
      total > items.length &&
      h("div", { class: "pager" }, button("Show more", more, { class: "btn small quiet" }));
    fill(this.list, rows, pager);
    if (CHANGEABLE) this.showPrompts(prompts);
  }

  /** What the file of prompts holds, and by which settings it is graded alike. @param {MarkedPrompts} prompts */
  showPrompts({ count, remarks, settings }) {
    this.prompts.hidden = count === 0;
    this.prompts.textContent = `${integer(count)} ${count === 1 ? "prompt" : "prompts"} (JSON lines)`;
    const graded = settings.map((text) => `--set ${shellWord(plain(text, 1000))}`).join(" ");
    fill(
      this.about,
      remarks.map((remark) => [`${plain(remark)}. `]),
      count > 0 && ["A run on the file that grades as this one did: ", h("code", { text: graded })],
    );
  }

  /** A mark whose rollout a resumed run has not written again. @param {ListedMark} mark */
  gone(mark) {
    const remove = async () => {
      try {
        await send("DELETE", `marks/${mark.id}`, null, { "If-Match": `"${mark.version}"` });
      } catch (error) {
        toast(error.message);
      }
      await this.refresh();
    };
    return h(
      "div",
      { class: "mark-row", "data-mark": mark.id },
      h("span", { class: "muted", text: "no longer stored" }),
      h(
        "span",
        { class: "row" },
        h("span", {
          class: "muted",
          text: "The run was resumed from an earlier step and has not written it again.",
        }),
        CHANGEABLE && button("Remove", remove, { class: "btn small quiet" }),
      ),
      noteText(mark.note),
    );
  }
}

/** A word of a shell's command line. @param {string} text */
function shellWord(text) {
  return /^[\w./=:-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** @param {ListedMark} mark */
function row(mark) {
  const { rollout_id: id, position, kind, step, group, sample } = mark;
  const where = `${kind === "train" ? "" : `${kind} `}step ${step} · ${group}.${sample}`;
  return h(
    "a",
    {
      class: "mark-row",
      href: page("rollout", { id, pos: position }),
      title: `Marked ${exact(mark.changed_at)}`,
      "data-mark": mark.id,
    },
    h("span", { class: "muted num" }, markSign(), where),
    position === null ? excerpt(mark) : inContext(mark),
    mark.rewritten
      ? h(
          "span",
          {},
          noteText(mark.note),
          h("span", { class: "bad-text", text: "Another text since a resume." }),
        )
      : noteText(mark.note),
  );
}

/** @param {ListedMark} mark */
function excerpt({ completion }) {
  return h(
    "span",
    { class: "mark-excerpt" },
    h("span", { class: "muted", text: "rollout " }),
    h("span", { class: "mono", text: plain(completion ?? "", EXCERPT) || "∅" }),
  );
}

/** @param {ListedMark} mark */
function inContext({ before, text, after, position }) {
  if (text === null)
    return h("span", { class: "muted", text: `position ${integer(position)}: not readable` });
  return h(
    "span",
    { class: "worst-text mono" },
    h("span", { class: "worst-before" }, h("bdi", { text: glyphs(before ?? "") })),
    h("mark", { text: bounded(text) }),
    h("span", { class: "worst-after" }, h("bdi", { text: glyphs(after ?? "") })),
  );
}
