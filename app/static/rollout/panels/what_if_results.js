// Continuations from another choice: their cards, and the list of those made before.
import { page } from "../../lib/api.js";
import { h, link } from "../../lib/dom.js";
import { fixed, integer, sum, verdict } from "../../lib/format.js";
import { sentenceOf, TintedTokens } from "../text/tinted.js";
import { alternativesAt, firstChoice } from "./alternatives.js";

/** @type {Record<string, string>} */
const AUTHORS = { student: "Student", teacher: "Teacher" };

/**
 * The rollout's own tokens from the position on, to compare with.
 * @param {Rollout} rollout @param {number} position
 */
export function original({ meta, columns }, position) {
  if (!columns.reverse_kl) return null;
  const rest = Array.from(columns.reverse_kl.slice(position));
  const total = rest.reduce((a, b) => a + b, 0);
  return h(
    "p",
    { class: "muted wi-original" },
    "As written, from here on: KL ",
    h("span", { class: "num", text: `${sum(total)} nats, ${fixed(total / rest.length)} per token` }),
    outcome(meta),
  );
}

/** A continuation as tinted text with its figures. @param {Rollout} branch @param {number} position */
export function card(branch, position) {
  const { meta, cells, columns } = branch;
  const detail = h("p", { class: "muted wi-detail", text: "" });
  const tinted = new TintedTokens(`${AUTHORS[meta.author]}’s continuation`, (at) =>
    showToken(detail, branch, at < 0 ? -1 : at + position, position),
  );
  const kl = columns.reverse_kl;
  const top = meta.scales?.reverse_kl > 0 ? meta.scales.reverse_kl : 1;
  tinted.draw(cells.slice(position), kl && Array.from(kl.slice(position)), top);
  return h(
    "article",
    { class: "wi-card", "data-author": meta.author, "data-id": meta.id },
    h(
      "header",
      {},
      h("strong", { text: `${AUTHORS[meta.author]} continues` }),
      h("span", { class: "spacer" }),
      link("Open", page("rollout", { id: meta.id, pos: position }), {
        "aria-label": `Open the ${meta.author}’s continuation on the token page`,
      }),
    ),
    tinted.element,
    detail,
    figures(meta, kl?.[position]),
  );
}

/**
 * Says the figures of one token of a continuation, and what the teacher wanted there once that is known.
 * @param {HTMLElement} detail @param {Rollout} branch @param {number} at @param {number} position
 */
async function showToken(detail, branch, at, position) {
  detail.dataset.at = String(at);
  if (at < 0) {
    detail.textContent = "";
    return;
  }
  const c = branch.columns;
  const values = {
    p: c.student_logprobs?.[at],
    q: c.teacher_logprobs?.[at],
    kl: c.reverse_kl?.[at],
    author: at === position ? "" : branch.meta.author,
  };
  detail.textContent = sentenceOf(branch.cells[at].raw, values);
  const alternatives = await alternativesAt(branch, at).catch(() => null); // the figures stand without it
  const best = alternatives && firstChoice(alternatives);
  if (!best || detail.dataset.at !== String(at)) return;
  const same = best.id === c.completion_ids[at];
  detail.textContent = sentenceOf(branch.cells[at].raw, {
    ...values,
    best: { text: best.text, p: best.student_logprob, q: best.teacher_logprob, same },
  });
}

/**
 * `first` is the KL at the choice itself, which every branch from there has in common.
 * @param {RolloutMeta} meta @param {number} first
 */
function figures(meta, first) {
  const end = meta.finish_reason === "stop" ? "finished (EOS)" : "truncated (length)";
  const after =
    first === undefined ? "" : `, ${sum(Math.max(0, (meta.kl_sum ?? 0) - first))} nats after the choice`;
  return h(
    "p",
    { class: "muted num wi-figures" },
    `${end}, KL ${sum(meta.kl_sum)} nats, ${fixed(meta.kl_mean)} per token${after}, step ${meta.step}`,
    outcome(meta),
  );
}

/** @param {RolloutMeta} meta */
function outcome(meta) {
  const text = verdict(meta);
  return text ? `, ${text}` : null;
}

/** Where a branch comes from. @param {{id: string, position: number}} parent */
export function parentLine(parent) {
  return h(
    "p",
    { class: "wi-parent" },
    "A branch of ",
    link("this rollout", page("rollout", { id: parent.id, pos: parent.position })),
    ` at position ${integer(parent.position)}.`,
  );
}

/** The branches that left a rollout before. @param {Branch[]} items */
export function branchTable(items) {
  /** @param {Branch} b */
  const row = (b) =>
    h(
      "tr",
      {},
      h("td", { class: "r num", text: integer(b.position) }),
      h("td", { text: b.author }),
      h("td", { class: "r num", text: b.step }),
      h("td", { class: "r num", text: sum(b.kl_sum) }),
      h("td", { text: verdict(b) || "–" }),
      h(
        "td",
        {},
        link("Open", page("rollout", { id: b.id, pos: b.position }), {
          "aria-label": `Open the branch at position ${b.position}`,
        }),
      ),
    );
  const heads = [
    h("th", { class: "r", text: "position" }),
    h("th", { text: "author" }),
    h("th", { class: "r", text: "step" }),
    h("th", { class: "r", text: "KL, nats" }),
    h("th", { text: "answer" }),
    h("th", {}, h("span", { class: "offscreen", text: "open" })),
  ];
  return [
    h("h2", { text: "Branches" }),
    h("table", { class: "table" }, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, items.map(row))),
  ];
}
