// Starts the page that the address names, as soon as Gradio has put its place on the screen.
import { startTheme } from "./theme.js";

const PAGES = { "": "runs", new: "new", run: "run", rollouts: "rollouts", rollout: "rollout", compare: "compare", experiments: "experiments", experiment: "experiment", playground: "playground", tour: "tour" };

startTheme();
const name = PAGES[location.pathname.split("/").pop()];
if (name) start(name);

async function start(name) {
  fetchScripts(name);
  const params = new URLSearchParams(location.search);
  const module = await import(`./${name}.js`);
  module.preload?.(params);
  const place = await placeOf(name);
  place.classList.add(`page-${name}`);
  module.mount(place, params);
}

/** Asks for all modules of a page at once; by itself the browser finds them import by import. */
function fetchScripts(name) {
  const known = JSON.parse(document.getElementById("opd-scripts")?.textContent ?? "{}");
  for (const file of known[name] ?? []) {
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
