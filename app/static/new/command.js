// The command that starts the run of the form, with a button that copies it.
import { copyButton, h } from "../lib/dom.js";

/** @param {HTMLElement} command */
export function commandPanel(command) {
  return h(
    "section",
    { class: "panel" },
    h(
      "header",
      {},
      h("h2", { text: "Command" }),
      h("span", { class: "spacer" }),
      copyButton("Copy", () => command.textContent),
    ),
    command,
  );
}
