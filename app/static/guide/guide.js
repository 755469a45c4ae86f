// A document of docs/ as a page: how to read what the other pages show.
import { page } from "../lib/api.js";
import { fill, h, link, scrollBox } from "../lib/dom.js";
import { errorBox, failed, loading } from "../lib/panel_states.js";
import { anchorOf, blocksOf, wordsOf } from "./markdown.js";

/** @type {[string, string][]} file's name without ending, what the list calls it */
const DOCUMENTS = [
  ["inspecting", "Inspecting a run"],
  ["metrics", "Metrics"],
  ["diagnosis", "Diagnosis"],
  ["loss-lab", "Loss lab"],
];

/** @param {HTMLElement} root @param {URLSearchParams} params */
export function mount(root, params) {
  const name = params.get("doc") ?? DOCUMENTS[0][0];
  document.title = "Guide · OPD Studio";
  if (!DOCUMENTS.some(([id]) => id === name)) {
    const names = DOCUMENTS.map(([id]) => id).join(", ");
    fill(root, errorBox({ message: "There is no such document", hint: `There are ${names}.` }, null));
    return;
  }
  show(root, name);
}

/** @param {HTMLElement} root @param {string} name @returns {Promise<void>} */
async function show(root, name) {
  loading(root, "the document");
  let text;
  try {
    const reply = await fetch(`static/guide/${name}.md`, { credentials: "same-origin" });
    if (!reply.ok) throw new Error(`status ${reply.status}`);
    text = await reply.text();
  } catch (error) {
    const reason = { message: "The document could not be loaded", hint: error.message };
    return failed(root, reason, () => show(root, name));
  }
  const blocks = blocksOf(text);
  const drawing = new Drawing(name);
  const article = h(
    "article",
    { class: "guide-text" },
    blocks.map((block) => drawing.block(block)),
  );
  fill(root, h("div", { class: "guide" }, contents(name, blocks), article));
  document.title = `${wordsOf(blocks[0]?.kind === "heading" ? blocks[0].spans : [])} · OPD Studio`;
  goToAnchor();
  addEventListener("hashchange", goToAnchor);
}

function goToAnchor() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  target?.scrollIntoView({ block: "start" });
  target?.focus({ preventScroll: true });
}

/** The documents, and the sections of this one. @param {string} name @param {Block[]} blocks */
function contents(name, blocks) {
  const sections = blocks.flatMap((block) =>
    block.kind === "heading" && block.level === 2
      ? [h("li", {}, link(wordsOf(block.spans), guidePage(name, anchorOf(block.spans))))]
      : [],
  );
  return h(
    "nav",
    { class: "guide-contents", "aria-label": "Documents" },
    h(
      "ul",
      {},
      DOCUMENTS.map(([other, title]) =>
        h(
          "li",
          {},
          link(title, guidePage(other), { "aria-current": other === name ? "page" : null }),
          other === name && sections.length > 1 ? h("ul", {}, sections) : null,
        ),
      ),
    ),
  );
}

/** Draws the parts of the document of that name. */
class Drawing {
  /** @param {string} name */
  constructor(name) {
    this.name = name;
  }

  /** @param {Block} block @returns {Child} */
  block(block) {
    if (block.kind === "heading") {
      const tag = /** @type {const} */ (["h1", "h2", "h3"])[block.level - 1];
      return h(tag, { id: anchorOf(block.spans), tabindex: "-1" }, this.spans(block.spans));
    }
    if (block.kind === "paragraph") return h("p", {}, this.spans(block.spans));
    if (block.kind === "code") return h("pre", { class: "code wrap", text: block.text });
    if (block.kind === "table") return this.table(block.head, block.rows);
    const items = block.items.map((spans) => h("li", {}, this.spans(spans)));
    return block.ordered ? h("ol", {}, items) : h("ul", {}, items);
  }

  /** @param {Span[][]} head @param {Span[][][]} rows */
  table(head, rows) {
    const heads = head.map((spans) => h("th", { scope: "col" }, this.spans(spans)));
    const lines = rows.map((cells) =>
      h(
        "tr",
        {},
        cells.map((spans) => h("td", {}, this.spans(spans))),
      ),
    );
    const box = scrollBox(wordsOf(head[0] ?? []));
    box.append(h("table", {}, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, lines)));
    return box;
  }

  /** @param {Span[]} spans @returns {Child[]} */
  spans(spans) {
    return spans.map((span) => this.span(span));
  }

  /** @param {Span} span @returns {Child} */
  span(span) {
    if (span.kind === "text") return span.text;
    if (span.kind === "code") return h("code", { text: span.text });
    const inner = this.spans(span.spans);
    if (span.kind === "strong") return h("strong", {}, inner);
    if (span.kind === "emphasis") return h("em", {}, inner);
    const href = this.address(span.target);
    return href ? h("a", { href }, inner) : h("span", {}, inner);
  }

  /** Where a link leads here; "" for what only the repository has. @param {string} target */
  address(target) {
    if (/^https?:\/\//.test(target)) return target;
    const [file, anchor] = target.split("#");
    const name = file.replace(/\.md$/, "") || this.name;
    return DOCUMENTS.some(([id]) => id === name) ? guidePage(name, anchor) : "";
  }
}

/** @param {string} name @param {string} [anchor] */
function guidePage(name, anchor) {
  return page("guide", { doc: name }) + (anchor ? `#${anchor}` : "");
}
