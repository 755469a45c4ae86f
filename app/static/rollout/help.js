// The list of keyboard shortcuts, and the way to how the page is read.
import { page } from "../lib/api.js";
import { button, h, link } from "../lib/dom.js";

const KEYS = [
  ["← →", "previous, next token"],
  ["↑ ↓", "token on the line above, below"],
  ["n p", "next, previous worst token of this rollout by the shown metric"],
  ["Shift+N Shift+P", "next, previous worst token of the whole run"],
  ["j k", "next, previous rollout of the list it was opened from"],
  ["b", "mark the pinned token, or the rollout where none is pinned, with a note"],
  ["Shift+B", "mark the rollout"],
  ["t", "the prompt as the teacher read it, where it read another; again: the student’s"],
  ["/", "search; Enter and Shift+Enter step through the matches"],
  ["m", "next metric; Shift+M: previous"],
  ["Home End", "first, last token"],
  ["Esc", "unpin; in a field: back to the text"],
  ["← →", "on the slider of Over time: previous, next step"],
  ["?", "this list"],
];

export function showHelp() {
  /** @type {HTMLDialogElement} */
  const dialog = h(
    "dialog",
    { class: "help", "aria-label": "Keyboard shortcuts" },
    h("h2", { text: "Keyboard shortcuts" }),
    h(
      "dl",
      {},
      KEYS.map(([keys, does]) => [
        h(
          "dt",
          {},
          keys.split(" ").map((k) => h("kbd", { text: k })),
        ),
        h("dd", { text: does }),
      ]),
    ),
    h(
      "form",
      { method: "dialog", class: "row" },
      button("Close", () => dialog.close(), { class: "btn strong" }),
      link("How to read this page", page("guide", { doc: "inspecting" })),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  (document.querySelector(".opd") ?? document.body).append(dialog);
  dialog.showModal();
}
