// Starts the page that the address names, as soon as Gradio has put its element on the page.
import { startTheme } from "./theme.js";

const SCRIPTS = JSON.parse(document.getElementById("opd-scripts")?.textContent ?? "{}"); // page → its own, then what that reaches

startTheme();
const name = location.pathname.split("/").pop() || "runs";
if (Object.hasOwn(SCRIPTS, name)) start(name, SCRIPTS[name]);

/** @param {string} name @param {string[]} scripts */
async function start(name, scripts) {
  fetchScripts([...scripts, "lib/server/banner.js"]);
  const params = new URLSearchParams(location.search);
  const module = await import(`../${scripts[0]}`);
  module.preload?.(params);
  const root = await rootOf(name);
  root.classList.add(`page-${name}`);
  module.mount(root, params);
  const banner = await import("./server/banner.js"); // which no page waits for
  banner.mount(root);
}

/**
 * Fetches all modules of a page at once; by itself the browser finds them import by import.
 * @param {string[]} scripts
 */
function fetchScripts(scripts) {
  for (const file of scripts) {
    const hint = document.createElement("link");
    Object.assign(hint, { rel: "modulepreload", href: new URL(`../${file}`, import.meta.url).href });
    document.head.append(hint);
  }
}

/** @param {string} name @returns {Promise<HTMLElement>} */
function rootOf(name) {
  const find = () => /** @type {HTMLElement | null} */ (document.querySelector(`[data-opd-page="${name}"]`));
  return new Promise((resolve) => {
    const present = find();
    if (present) return resolve(present);
    const observer = new MutationObserver(() => {
      const added = find();
      if (!added) return;
      observer.disconnect();
      resolve(added);
    });
    observer.observe(document.documentElement, { childList: true, subtree: true });
  });
}
