// What differs from the recipe, the run or the file that the form started from.
import { h } from "../lib/dom.js";
import { plain } from "../lib/format.js";
import { flatten } from "./fields.js";

/** Dotted paths of the settings that differ, switches too; sections are their settings. @param {Config} base @param {Config} config */
export function changedPaths(base, config) {
  const [before, after] = [flatten(base), flatten(config)];
  const paths = [...new Set([...Object.keys(before), ...Object.keys(after)])];
  return paths.filter(
    (path) =>
      JSON.stringify(before[path]) !== JSON.stringify(after[path]) &&
      !Object.keys(after).some((other) => other.startsWith(`${path}.`)),
  );
}

/** A panel of the changed settings; null where there are none. @param {Config} base @param {Config} config @param {string} origin */
export function changesPanel(base, config, origin) {
  const [before, after] = [flatten(base), flatten(config)];
  const changed = changedPaths(base, config);
  if (!changed.length && origin !== "the run") return null;
  const rows = changed.map((path) =>
    h(
      "tr",
      {},
      h("td", { class: "mono", text: path }),
      h("td", { class: "r muted", text: textOf(before[path]) }),
      h("td", { class: "r", text: textOf(after[path]) }),
    ),
  );
  const body = rows.length
    ? h("table", { class: "table" }, h("tbody", {}, rows))
    : h("p", { class: "pad muted", text: "No changes: the same run again." });
  return h("section", { class: "panel" }, h("header", {}, h("h2", { text: `Changes from ${origin}` })), body);
}

/** @param {unknown} value */
function textOf(value) {
  if (value === undefined || value === null) return "none";
  return plain(Array.isArray(value) ? value.join(", ") : String(value), 60);
}
