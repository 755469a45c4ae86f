// What the form folds away: the fields of each group that are not among those it always shows.
import { h } from "../lib/dom.js";

const GROUPS = [
  ["general", "General"],
  ["student", "Student"],
  ["teacher", "Teacher"],
  ["prompts", "Prompts"],
  ["objective", "Objective"],
  ["sampling", "Sampling"],
  ["optimizer", "Optimizer"],
  ["evaluation", "Evaluation"],
  ["records", "Token records"],
  ["checkpoints", "Checkpoints"],
  ["stop", "Ending early"],
  ["resources", "On a cluster"],
];

/**
 * @param {Field[]} fields @param {Map<string, Control>} controls by the field's path
 * @param {string[]} visible paths of the fields that are always shown, besides the name
 */
export function moreSettings(fields, controls, visible) {
  const groups = GROUPS.map(([key, label]) => {
    const rest = fields.filter((f) => f.group === key && f.path !== "name" && !visible.includes(f.path));
    return rest.length
      ? h(
          "fieldset",
          {},
          h("legend", { text: label }),
          h(
            "div",
            { class: "fields" },
            rest.map((f) => controls.get(f.path)?.element),
          ),
        )
      : null;
  });
  return h("details", { class: "more" }, h("summary", { text: "More settings" }), groups);
}
