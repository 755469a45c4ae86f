// Starts the page that the address names, as soon as Gradio has put its place on the screen.
import { startTheme } from "./theme.js";

const SCRIPTS = JSON.parse(document.getElementById("opd-scripts")?.textContent ?? "{}"); // page → its own, then what that reaches

startTheme();
const name = location.pathname.split("/").pop() || "runs";
if (Object.hasOwn(SCRIPTS, name)) start(name, SCRIPTS[name]);

async function start(name, scripts) {
  fetchScripts(scripts);
  const params = new URLSearchParams(location.search);
  const module = await import(`../${scripts[0]}`);
  module.preload?.(params);
  const place = await placeOf(name);
  place.classList.add(`page-${name}`);
  module.mount(place, params);
}

/** Asks for all modules of a page at once; by itself the browser finds them import by import. */
function fetchScripts(scripts) {
  for (const file of scripts) {
    const hint = document.createElement("link");
    Object.assign(hint, { rel: "modulepreload", href: `static/${file}` });
    document.head.append(hint);
  }
}

function placeOf(name) {
  const find = () => document.querySelector(`[data-opd-page="${name}"]`);
  return new Promise((resolve) => {
    if (find()) return resolve(find());
    const observer = new MutationObserver(() => {
      if (!find()) return;
      observer.disconnect();
      resolve(find());
    });
    observer.observe(document.documentElement, { childList: true, subtree: true });
  });
}
