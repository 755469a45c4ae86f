// The list of keys.
import { button, h } from "../lib/dom.js";

const KEYS = [
  ["← →", "previous, next token"],
  ["↑ ↓", "token on the line above, below"],
  ["n p", "next, previous worst token: from the worst of the shown metric downwards"],
  ["Shift+N Shift+P", "next, previous worst token of the whole run"],
  ["j k", "next, previous rollout of the list it was opened from"],
  ["/", "search; Enter and Shift+Enter go through the matches"],
  ["m", "next metric; Shift+M the one before"],
  ["Home End", "first, last token"],
  ["Esc", "unpin; in a field of the page: back to the text"],
  ["← →", "on the slider of Over time: the step before, the step after"],
  ["?", "this list"],
];

export function showHelp() {
  const dialog = h(
    "dialog",
    { class: "help", "aria-label": "Keys" },
    h("h2", { text: "Keys" }),
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
      { method: "dialog" },
      button("Close", () => dialog.close(), { class: "btn strong" }),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.querySelector(".opd").append(dialog);
  dialog.showModal();
}
