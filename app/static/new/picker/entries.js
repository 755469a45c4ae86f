// One line of the picker: what a folder, file, model or run is, and what can be done with it.
import { button, h } from "../../lib/dom.js";
import { ago, bytes, integer, number, plain, short } from "../../lib/format.js";

/**
 * @typedef {{choose: (value: string) => unknown, enter: (item: SourceItem) => unknown, remove: (item: SourceItem) => unknown}} Actions
 */

/** @param {SourceItem} item @param {Actions} actions */
export function entry(item, actions) {
  const { value } = item;
  const opens = item.folder || (item.steps?.length ?? 0) > 1;
  const act = value !== null ? () => actions.choose(value) : opens ? () => actions.enter(item) : null;
  const name = plain(item.name || item.id || "", 200);
  const problem = item.model?.problem;
  return h(
    "div",
    { class: "pick-entry" },
    h(
      "button",
      { type: "button", class: "choice", onclick: act, "aria-disabled": act ? null : "true" },
      h("b", { text: item.folder ? `${name}/` : name }),
      h("span", { class: "muted", text: described(item) }),
      problem && h("span", { class: "bad-text", text: plain(problem, 400) }),
    ),
    opens && value !== null && side(item.steps ? "Checkpoints" : "Open", name, () => actions.enter(item)),
    item.file && remover(name, () => actions.remove(item)),
  );
}

/** @param {string} label @param {string} name @param {(event: Event) => unknown} onclick */
function side(label, name, onclick) {
  return button(label, onclick, { class: "btn small", "aria-label": `${label} of ${name}` });
}

/** Asks once more before it removes. @param {string} name @param {() => unknown} remove */
function remover(name, remove) {
  const element = side("Delete", name, () => {
    if (element.dataset.asked) return remove();
    element.dataset.asked = "yes";
    element.textContent = "Delete for good";
    element.setAttribute("aria-label", `Delete for good: ${name}; runs that read it cannot be resumed`);
    element.title = "Runs that read it cannot be resumed";
  });
  return element;
}

/** @param {SourceItem} item */
function described(item) {
  if (item.steps) {
    const at = item.steps.length > 1 ? `${item.steps.length} checkpoints, newest` : "checkpoint";
    const score = item.score === null || item.score === undefined ? "" : `score ${number(item.score)}`;
    const parts = [`${at} of step ${integer(item.steps.at(-1))}`, score, item.status, item.id];
    return parts.filter(Boolean).join(" · ");
  }
  const { model } = item;
  if (model) return modelText(model);
  if (item.step !== undefined) return `${item.value}`;
  if (item.folder) return item.value === null ? "folder" : "saved data set";
  const parts = [item.bytes ? bytes(item.bytes) : "", item.modified ? ago(item.modified) : ""];
  return parts.filter(Boolean).join(" · ") || (item.value === null ? "cannot be used" : "");
}

/** @param {ModelText} model */
function modelText(model) {
  return [
    model.form === "model" ? "" : model.form,
    plain(model.kind ?? "", 40),
    model.parameters ? `${short(model.parameters)} parameters` : "",
    model.layers ? `${model.layers} layers × ${integer(model.hidden)}` : "",
    model.context ? `context ${integer(model.context)}` : "",
    model.rank ? `rank ${model.rank}` : "",
    model.base ? `of ${plain(model.base, 120)}` : "",
    model.bytes ? bytes(model.bytes) : "",
  ]
    .filter(Boolean)
    .join(" · ");
}
