// A list of runs to start from: each leads to this page with that run's settings.
import { get, page } from "../lib/api.js";
import { openDialog } from "../lib/dialog.js";
import { debounce, fill, h } from "../lib/dom.js";
import { plain } from "../lib/format.js";
import { empty, failed } from "../lib/panel_states.js";

const SHOWN = 50;

export function chooseRun() {
  const list = h("div", { class: "choices", "aria-live": "polite" });
  const search = h("input", {
    class: "field wide",
    type: "search",
    placeholder: "Name, tag or model",
    "aria-label": "Search runs",
    oninput: debounce(200, () => load()),
  });
  let turn = 0;
  const load = async () => {
    const number = ++turn;
    try {
      const { items, total } = await get("runs", { search: search.value.trim(), limit: SHOWN });
      if (number === turn) show(items, total);
    } catch (error) {
      failed(list, error, load);
    }
  };
  /** @param {Run[]} items @param {number} total */
  const show = (items, total) => {
    if (!items.length)
      return empty(list, "No runs", search.value ? "None matches." : "None was started yet.");
    fill(
      list,
      items.map((run) =>
        h(
          "a",
          { class: "choice", href: page("new", { from: run.id }) },
          h("b", { text: plain(run.name || run.id, 100) }),
          h("span", { class: "muted", text: `${run.status} · ${plain(run.student, 60)} · ${run.id}` }),
        ),
      ),
      total > items.length
        ? h("p", { class: "pad muted", text: `${items.length} of ${total} runs: search for others.` })
        : null,
    );
  };
  openDialog("Open the settings of a run", search, list);
  load();
}
