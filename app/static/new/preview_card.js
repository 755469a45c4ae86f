// One prompt of the preview: its row, and what each of its readers sees, special tokens marked.
import { h } from "../lib/dom.js";
import { integer, plain } from "../lib/format.js";
import { glyphs } from "../rollout/text/glyphs.js";

const [MOST_FIELDS, MOST_TEXT] = [40, 2000];

/** @param {PreviewedPrompt} prompt @param {string} source */
export function promptCard(prompt, source) {
  const fate = prompt.verdict === "kept" ? null : h("span", { class: "tag bad", text: prompt.verdict });
  return h(
    "article",
    { class: "preview-prompt", "data-verdict": prompt.verdict },
    h(
      "header",
      {},
      h("h3", { title: prompt.where, text: rowName(prompt.where, source) }),
      h("span", { class: "muted preview-form", text: plain(prompt.form, 60) }),
      fate,
    ),
    prompt.readers.map(readerPart),
    line("Answer", prompt.answer),
    line("Completion", prompt.completion),
    row(prompt.fields),
  );
}

/** The row within its source. @param {string} where @param {string} source */
export function rowName(where, source) {
  if (!where.startsWith(source)) return plain(where, 200);
  const rest = where.slice(source.length).replace(/^[:,\s]+/, "");
  return /^\d+$/.test(rest) ? `Line ${rest}` : plain(rest, 200);
}

/** @param {ReadPrompt} reader */
function readerPart(reader) {
  const [first, ...route] = reader.section.split(".routes.");
  const name = `${first[0].toUpperCase()}${first.slice(1)}${route.length ? ` for ${plain(route.join("."), 60)}` : ""}`;
  return h(
    "div",
    { class: "preview-reader", "data-section": reader.section },
    h(
      "p",
      { class: "preview-head" },
      h("strong", { text: name }),
      h("span", { class: "preview-model muted", title: reader.model, text: plain(reader.model, 80) }),
      h("span", { class: "spacer" }),
      tokens(reader),
    ),
    reader.problem ? h("p", { class: "bad-text", text: plain(reader.problem, 600) }) : null,
    reader.unknown
      ? h("p", {
          class: "bad-text",
          text: `${integer(reader.unknown)} tokens stand for text that the tokenizer does not know.`,
        })
      : null,
    reader.same ? h("p", { class: "muted", text: "Reads the student’s prompt." }) : null,
    reader.pieces.length ? text(reader, name) : null,
  );
}

/** @param {ReadPrompt} reader */
function tokens({ tokens: count, limit, limited_by, same }) {
  if (count === null || same) return null;
  const over = limit !== null && count > limit;
  const why = limited_by === "context" ? "the context beside sampling.max_new_tokens" : limited_by;
  return h("span", {
    class: over ? "num bad-text" : "num muted",
    title: limit === null ? null : `At most ${integer(limit)}: ${why}`,
    text: limit === null ? `${integer(count)} tokens` : `${integer(count)} of ${integer(limit)} tokens`,
  });
}

/** @param {ReadPrompt} reader @param {string} name */
function text(reader, name) {
  return h(
    "pre",
    { class: "preview-text", tabindex: "0", role: "group", "aria-label": `Prompt of ${name}` },
    reader.pieces.map(({ text, kind }) => {
      if (kind === "cut") return h("span", { class: "preview-cut muted", text: `… ${text} …` });
      if (kind === "special") return h("span", { class: "preview-special", text: glyphs(text) });
      return text.split(/(?<=\n)/).map(lineOf);
    }),
  );
}

/** A line of text with its end in sight. @param {string} text */
function lineOf(text) {
  if (!text.endsWith("\n")) return shown(text);
  return [shown(text.slice(0, -1)), h("span", { class: "muted", "aria-hidden": "true", text: "⏎" }), "\n"];
}

/** Blanks before a line's end are dots. @param {string} text */
function shown(text) {
  return glyphs(text).replace(/ +$/, (blanks) => "·".repeat(blanks.length));
}

/** @param {string} label @param {string | null} value */
function line(label, value) {
  if (value === null) return null;
  return h(
    "p",
    { class: "preview-line" },
    h("span", { class: "muted", text: label }),
    h("span", { class: "preview-value", text: plain(value, MOST_TEXT) || "empty" }),
  );
}

/** @param {Record<string, string>} fields */
function row(fields) {
  const entries = Object.entries(fields).slice(0, MOST_FIELDS);
  return h(
    "details",
    { class: "preview-row" },
    h("summary", { text: "Row as read" }),
    h(
      "dl",
      {},
      entries.map(([name, value]) => [
        h("dt", { class: "mono", text: plain(name, 80) }),
        h("dd", { text: plain(value, MOST_TEXT) }),
      ]),
    ),
  );
}
