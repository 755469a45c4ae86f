// An experiment's own texts, under the same headings on every page.
import { h } from "../lib/dom.js";
import { plain } from "../lib/format.js";

/**
 * `heading` is the tag of the headings; what is empty has none.
 * @param {ExperimentTexts} item @param {"h2" | "h3"} heading @param {[string, string | undefined][]} [more]
 */
export function texts(item, heading, more = []) {
  /** @type {[string, string | undefined][]} */
  const sections = [
    ["Claim", item.claim],
    ["Published result", item.published],
    ...more,
    ["What it shows", item.shows],
    ["Limitations", item.limits],
  ];
  return sections
    .filter(([, text]) => text)
    .map(([title, text = ""]) =>
      h("section", { "aria-label": title }, h(heading, { text: title }), paragraphs(text)),
    );
}

/** @param {string} text */
function paragraphs(text) {
  return text
    .split(/\n\s*\n/)
    .map((part) => h("p", { text: plain(part.replace(/\s*\n\s*/g, " ").trim(), 4000) }));
}
