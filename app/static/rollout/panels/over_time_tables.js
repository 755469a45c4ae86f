// The tables of the panel over time: the steps of a probe, and other rollouts of the prompt.
import { page } from "../../lib/api.js";
import { button, h, link } from "../../lib/dom.js";
import { fixed, integer, plain, sum, verdict } from "../../lib/format.js";
import { bounded } from "../text/glyphs.js";
import { unitOf } from "../text/metrics.js";

const MAX_NAME = 40; // characters of a run's name
const MAX_TOKEN = 8; // characters of a token in a heading

/**
 * The steps of one completion. `here` and `compared`: ids of the open rollout and of the one it is
 * compared with; `token`: {text, metric, valueAt(id)} of the token that is looked at, or null;
 * `go(index)` opens a step, `compare(id | null)` compares with it.
 * @param {RelatedItem[]} series @param {StepsOptions} stepsOptions
 */
export function stepsTable(series, { here, compared, token, go, compare }) {
  /** @type {[string, string?][]} */
  const heads = [["step"], ["KL mean"], ["KL sum"]];
  if (token) {
    const unit = unitOf(token.metric);
    const means = `${token.metric.label}${unit ? `, ${unit}` : ""}, of the selected token`;
    heads.push([`“${shortened(token.text)}”`, means]);
  }
  const rows = series.map((item, at) => {
    const isHere = item.id === here;
    const step = button(integer(item.step), () => go(at), {
      class: "ot-step num",
      "aria-current": isHere ? "step" : null,
    });
    return h(
      "tr",
      { class: isHere ? "here" : "", "data-step": item.step },
      h("td", { class: "r" }, step),
      numberCell(fixed(item.kl_mean)),
      numberCell(sum(item.kl_sum)),
      token && numberCell(token.valueAt(item.id)),
      h("td", {}, isHere ? null : compareButton(item, compared, compare)),
    );
  });
  return table([...heads, [""]], rows, "Steps of the probe");
}

/**
 * Other rollouts of the prompt: of other runs (`across`) or samples of this one; `more` are not
 * listed. `open(id)` opens one in place.
 * @param {RelatedItem[]} items @param {RelatedOptions} relatedOptions
 */
export function relatedTable(items, { across, more, here, compared, open, compare }) {
  if (!items.length) {
    const text = across
      ? "No other run has this prompt (newest 200 searched)."
      : "No new samples of this prompt.";
    return h("p", { class: "muted", text });
  }
  const rows = items.map((item) => relatedRow(item, { across, here, compared, open, compare }));
  /** @type {[string, string?][]} */
  const heads = across
    ? [["run"], ["step"], ["KL mean"], [""]]
    : [["step"], ["kind"], ["KL mean"], ["answer"], [""]];
  return [
    table(heads, rows, across ? "Rollouts of other runs" : "New samples"),
    more > 0 && h("p", { class: "muted", text: `${integer(more)} more are not listed.` }),
  ];
}

/** @param {RelatedItem} item @param {Omit<RelatedOptions, "more">} options */
function relatedRow(item, { across, here, compared, open, compare }) {
  const isHere = item.id === here;
  const last = h(
    "td",
    {},
    isHere ? h("span", { class: "muted", text: "this" }) : compareButton(item, compared, compare),
  );
  if (across) {
    const name = plain(item.run_name || item.run_id, MAX_NAME);
    return h(
      "tr",
      { "data-related": item.id },
      h("td", { class: "clip" }, openLink(item, name, name, open)),
      numberCell(integer(item.step)),
      numberCell(fixed(item.kl_mean)),
      last,
    );
  }
  const step = openLink(item, integer(item.step), `step ${item.step}, sample ${item.sample}`, open);
  return h(
    "tr",
    { class: isHere ? "here" : "", "data-related": item.id },
    h("td", { class: "r" }, step),
    h("td", { text: `${item.kind} ${item.sample}` }),
    numberCell(fixed(item.kl_mean)),
    h("td", { text: verdict(item) || "–" }),
    last,
  );
}

/**
 * A link that opens the rollout in place; with a modifier key it is a link as any.
 * @param {RelatedItem} item @param {string} text @param {string} title @param {(id: string) => unknown} open
 */
function openLink(item, text, title, open) {
  /** @param {MouseEvent} event */
  const onclick = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    open(item.id);
  };
  return link(text, page("rollout", { id: item.id, tab: "over-time" }), { title, onclick });
}

/**
 * @param {RelatedItem} item
 * @param {string | null | undefined} compared
 * @param {(id: string | null) => unknown} compare
 */
function compareButton(item, compared, compare) {
  const isCompared = compared === item.id;
  return button(isCompared ? "Stop" : "Compare", () => compare(isCompared ? null : item.id), {
    class: "btn small quiet",
    title: item.same_completion ? "Difference, token by token" : "Side by side",
    "aria-label": `${isCompared ? "Stop comparing" : "Compare"} with step ${item.step}, ${item.kind}, sample ${item.sample}`,
    "aria-pressed": String(isCompared),
  });
}

/** @param {[string, string?][]} heads @param {Child} rows @param {string} label */
function table(heads, rows, label) {
  const head = heads.map(([text, title]) =>
    h("th", { scope: "col", class: /KL|“|^step/.test(text) ? "r" : "", title }, text),
  );
  return h(
    "table",
    { class: "ot-table", "aria-label": label },
    h("thead", {}, h("tr", {}, head)),
    h("tbody", {}, rows),
  );
}

/** @param {string} text */
function numberCell(text) {
  return h("td", { class: "r num", text });
}

/** @param {string} text */
function shortened(text) {
  const shown = [...bounded(text)];
  return shown.length > MAX_TOKEN ? `${shown.slice(0, MAX_TOKEN - 1).join("")}…` : shown.join("");
}
