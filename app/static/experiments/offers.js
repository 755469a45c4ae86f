// The available experiments: the question, the arms, how long they take, and the buttons.
import { h } from "../lib/dom.js";
import { plain } from "../lib/format.js";
import { minutes, nameOf, seeds } from "./figures.js";
import { texts } from "./texts.js";

const COLUMNS = 3;

/**
 * `on.start(definition, quick, button)` starts one, `on.toggle(name)` folds one out or in.
 * @param {ExperimentDefinition[]} items @param {string} opened @param {OfferActions} on
 */
export function offerTable(items, opened, on) {
  const heads = [["Experiment"], ["Quick look", "exp-go"], ["Full", "exp-go"]];
  return h(
    "table",
    { class: "table exp-offers", "aria-label": "Available experiments" },
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        heads.map(([text, kind]) => h("th", { class: kind ?? "", scope: "col", text })),
      ),
    ),
    items.map((item) => offer(item, item.name === opened, on)),
  );
}

/** @param {ExperimentDefinition} item @param {boolean} open @param {OfferActions} on */
function offer(item, open, on) {
  const more = `exp-more-${item.name}`;
  const opener = h(
    "button",
    {
      type: "button",
      class: "exp-title",
      id: `exp-open-${item.name}`,
      "aria-expanded": String(open),
      "aria-controls": more,
      onclick: () => on.toggle(item.name),
    },
    titleOf(item),
  );
  const arms = item.arms.map(nameOf).join(" · ");
  const tag = h("span", {
    class: "tag exp-custom",
    title: "Does not use the bundled models: loads others from disk or the Hub",
    text: "other models",
  });
  const what = h(
    "td",
    { class: "exp-what" },
    h(
      "p",
      {},
      opener,
      !item.bundled && tag,
      h("span", { class: "muted exp-arms", title: `Arms: ${arms}`, text: arms }),
    ),
    h("p", { class: "muted exp-asks", title: plain(item.question, 1000), text: plain(item.question, 300) }),
  );
  return h(
    "tbody",
    { "data-definition": item.name },
    h("tr", {}, what, starter(item, true, on), starter(item, false, on)),
    h(
      "tr",
      { id: more, class: "exp-more", hidden: !open },
      h("td", { colspan: COLUMNS }, open && about(item)),
    ),
  );
}

/** @param {ExperimentDefinition} item */
function titleOf(item) {
  return plain(item.title || item.name, 120);
}

/** @param {ExperimentDefinition} item @param {boolean} quick @param {OfferActions} on */
function starter(item, quick, on) {
  const label = quick ? "Quick look" : "Full";
  const start = h(
    "button",
    {
      type: "button",
      class: "btn small",
      "data-start": quick ? "quick" : "full",
      "aria-label": `${label}: ${titleOf(item)}`,
      onclick: () => on.start(item, quick, start),
    },
    label,
  );
  const time = minutes(quick ? item.minutes.quick : item.minutes.full);
  const count = h("span", { text: seeds(quick ? item.quick_seeds : item.seeds) });
  return h(
    "td",
    { class: "exp-go" },
    h("div", {}, h("span", { class: "muted num" }, time !== "–" && h("span", { text: time }), count), start),
  );
}

/** @param {ExperimentDefinition} item */
function about(item) {
  const arms = h(
    "section",
    {},
    h("h3", { text: "Arms" }),
    h(
      "ul",
      {},
      item.arms.map((arm) => h("li", { text: nameOf(arm) })),
    ),
  );
  return h("div", { class: "exp-about" }, texts(item, "h3", [["Method", item.description]]), arms);
}
