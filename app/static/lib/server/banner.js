// Above every page: that no run would start, and why, for as long as that is so; in its corner, by
// whose link this browser is signed in, where the server's links have names.
import { get } from "../api.js";
import { fill, h, poll } from "../dom.js";
import { plain } from "../format.js";

const LOOK_EVERY = 5000; // ms
const FIRST_AFTER = 500; // ms: what the page itself asks for goes first

/** @param {HTMLElement} root the page, which fills itself */
export function mount(root) {
  const banner = h("div", { class: "server-banner", role: "alert", id: "server-banner" });
  let shown = "";
  const look = async () => {
    let reason, user;
    try {
      ({ reason, user } = await get("health"));
    } catch {
      return; // the page itself says that the server does not respond
    }
    showUser(user);
    if ((reason ?? "") === shown) return;
    shown = reason ?? "";
    fill(banner, shown && words(shown));
    if (shown) root.before(banner);
    else banner.remove();
  };
  setTimeout(look, FIRST_AFTER);
  poll(LOOK_EVERY, look);
}

/** @param {string | null} user */
function showUser(user) {
  const corner = document.querySelector(".page-corner");
  const shown = corner?.querySelector(".signed-in");
  if ((user ?? "") === (shown?.textContent ?? "")) return;
  shown?.remove();
  const title = `This browser has the link of ${user}; runs that you start bear that name`;
  if (user) corner?.prepend(h("span", { class: "signed-in", title, text: user }));
}

/** @param {string} reason */
function words(reason) {
  const text = plain(reason, 600);
  return [
    h("strong", { text: "Nothing starts at the moment" }),
    h("p", { text: `${text[0].toUpperCase()}${text.slice(1)}.` }),
    h("p", {
      text: "Runs and requests stay queued; running ones continue. The server tries again every 30 s, and its terminal has the details.",
    }),
  ];
}
