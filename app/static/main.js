// Starts the page that the address names, as soon as Gradio has put its place on the screen.
import { startTheme } from "./theme.js";

const PAGES = { "": "runs", new: "new", run: "run", rollouts: "rollouts", rollout: "rollout", compare: "compare", playground: "playground", tour: "tour" };

startTheme();
const name = PAGES[location.pathname.split("/").pop()];
if (name) start(name);

async function start(name) {
  const params = new URLSearchParams(location.search);
  const module = await import(`./${name}.js`);
  module.preload?.(params);
  const place = await placeOf(name);
  place.classList.add(`page-${name}`);
  module.mount(place, params);
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
