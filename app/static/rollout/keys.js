// Keys of the token page; they rest while a field has the focus, which Escape gives back to the text.

/**
 * `actions`: by key, what it does; `toText()` gives the focus to the text.
 * @param {Record<string, () => void>} actions
 * @param {() => void} toText
 */
export function listenKeys(actions, toText) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = /** @type {Element} */ (event.target);
    if (target.closest("input, select, textarea, dialog")) {
      if (event.key === "Escape" && !target.closest("dialog")) toText();
      return;
    }
    const action = Object.hasOwn(actions, event.key) ? actions[event.key] : null;
    if (!action || (event.key.startsWith("Arrow") && target.closest("button, a"))) return;
    event.preventDefault();
    action();
  });
}
