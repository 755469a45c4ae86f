// Light, dark or the system's choice, kept in this browser.
import { h } from "./dom.js";

/** @type {Record<string, string>} */
const NEXT = { system: "light", light: "dark", dark: "system" };
const dark = matchMedia("(prefers-color-scheme: dark)");

export function startTheme() {
  apply(read());
  const show = () => `Theme: ${read()}`;
  const element = h(
    "button",
    { type: "button", class: "theme-switch", title: "Light, dark or system" },
    show(),
  );
  element.addEventListener("click", () => {
    remember("theme", NEXT[read()]);
    apply(read());
    element.textContent = show();
  });
  dark.addEventListener("change", () => apply(read()));
  document.body.append(h("div", { class: "page-corner" }, element));
}

export function isDark() {
  const chosen = read();
  return chosen === "system" ? dark.matches : chosen === "dark";
}

/** @param {() => unknown} action */
export function onTheme(action) {
  document.addEventListener("opd-theme", action);
}

/** @param {string} chosen */
function apply(chosen) {
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  document.dispatchEvent(new Event("opd-theme"));
}

function read() {
  const stored = recall("theme", "system");
  return stored in NEXT ? stored : "system";
}

/**
 * Choices of this browser that do not belong to what a shared link shows.
 * @param {string} name @param {string} otherwise
 */
export function recall(name, otherwise) {
  try {
    return localStorage.getItem(`opd-${name}`) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** @param {string} name @param {string} value */
export function remember(name, value) {
  try {
    localStorage.setItem(`opd-${name}`, value);
  } catch {
    // a browser without storage forgets the choice on reload
  }
}
