// What an experiment says of itself, under the same headings wherever it is told.
import { h } from "../lib/dom.js";
import { plain } from "../lib/format.js";

/** `heading` is the tag of the headings; what is empty has none. */
export function texts(item, heading, more = []) {
  const told = [
    ["What is claimed", item.claim],
    ["What was published", item.published],
    ...more,
    ["What it shows", item.shows],
    ["What it does not show", item.limits],
  ];
  return told
    .filter(([, text]) => text)
    .map(([title, text]) =>
      h("section", { "aria-label": title }, h(heading, { text: title }), paragraphs(text)),
    );
}

function paragraphs(text) {
  return text
    .split(/\n\s*\n/)
    .map((part) => h("p", { text: plain(part.replace(/\s*\n\s*/g, " ").trim(), 4000) }));
}
