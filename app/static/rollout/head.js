// The line above the token view: where this rollout belongs, its sums, and its neighbours.
import { page } from "../lib/api.js";
import { button, copyButton, fill, h, link } from "../lib/dom.js";
import { integer, nats, plain, sum, verdict } from "../lib/format.js";

const SORTS = {
  kl_sum: "KL sum",
  kl_mean: "KL mean",
  kl_max: "KL max",
  tokens: "length",
  step: "step",
  reward: "reward",
};

export class RolloutHead {
  constructor(go) {
    this.path = h("nav", { class: "crumbs", "aria-label": "Place" });
    this.facts = h("div", { class: "rt-facts" });
    this.where = h("span", { class: "muted num" });
    this.ofRun = h("span", { class: "tag num", hidden: true, role: "status" });
    this.before = button("Prev", () => go(-1), { class: "btn small", title: "Previous rollout (k)" });
    this.after = button("Next", () => go(1), { class: "btn small", title: "Next rollout (j)" });
    this.share = copyButton("Copy link", () => location.href);
    this.share.classList.add("small");
    this.share.title = "The address shows others what you see: rollout, token, metric, tab";
    this.element = h(
      "header",
      { class: "rt-head" },
      this.path,
      this.facts,
      h("span", { class: "spacer" }),
      this.ofRun,
      this.where,
      this.before,
      this.after,
      this.share,
    );
  }

  show({ meta, n, columns }, filters) {
    this.filters = filters;
    this.ofRun.hidden = true;
    this.where.hidden = false;
    const kind = meta.kind === "train" ? "" : `${meta.kind} `;
    fill(
      this.path,
      link("Runs", "./"),
      link(plain(meta.run_name || meta.run_id, 40), page("run", { id: meta.run_id })),
      link("Rollouts", page("rollouts", { run: meta.run_id, ...filters })),
      h("h1", { text: `${kind}step ${meta.step} · prompt ${meta.group} · sample ${meta.sample}` }),
    );
    const total = meta.kl_sum ?? null;
    fill(
      this.facts,
      verdictTag(meta),
      meta.finish_reason &&
        h("span", {
          class: meta.finish_reason === "length" ? "tag warn" : "tag",
          text: meta.finish_reason === "length" ? "cut off" : "stopped",
        }),
      AUTHORS[meta.author] && h("span", { class: "tag", text: AUTHORS[meta.author] }),
      fact("tokens", integer(n)),
      columns.reverse_kl && fact("KL", `${sum(total)} nats`),
      columns.reverse_kl && fact("mean", `${nats(meta.kl_mean)} nats`),
      columns.reverse_kl && fact("max", `${nats(meta.kl_max)} nats`, "fact extra"),
      meta.answer !== null &&
        meta.answer !== undefined &&
        fact("answer", plain(String(meta.answer), 24), "fact extra"),
    );
    document.title = `step ${meta.step}, prompt ${meta.group} · OPD Studio`;
  }

  /** Where the pinned token stands among the worst of the run. */
  worst(place, total) {
    this.ofRun.hidden = false;
    this.where.hidden = true; // there is no room for both
    this.ofRun.textContent = `worst token ${integer(place + 1)} of ${integer(total)} in the run`;
  }

  place(at, total) {
    const sort = this.filters?.sort ?? "-kl_sum";
    const by = SORTS[sort.replace("-", "")] ?? sort;
    this.where.textContent = at === null ? "" : `${integer(at + 1)} of ${integer(total)} by ${by}`;
    this.before.disabled = at === null || at === 0;
    this.after.disabled = at !== null && total !== null && at >= total - 1;
  }
}

const AUTHORS = { teacher: "written by the coach", given: "given by the data" };

function fact(name, value, kind = "fact") {
  return h(
    "span",
    { class: kind },
    h("span", { class: "muted", text: name }),
    h("span", { class: "num", text: value }),
  );
}

export function verdictTag(rollout) {
  const text = verdict(rollout);
  return text ? h("span", { class: `tag ${{ right: "good", wrong: "bad" }[text] ?? ""}`, text }) : null;
}
