// Put into each page as it is, before any module: modules are what a proxy on the way breaks first.
// Gradio takes its address from the header Host, which a proxy may have changed; the browser knows
// it. Where the two differ the server is asked whether it takes what this page sends.
(() => {
  const PATIENCE = 3000; // ms after which modules that have not run are asked about
  const config = Reflect.get(window, "gradio_config");
  const seen = new URL(config?.root || location.href, location.href);
  const prefix = location.pathname.replace(/\/[^/]*$/, "");
  const served = seen.pathname.replace(/\/$/, "");
  if (config) config.root = location.origin + (prefix || served);
  const moved = seen.host !== location.host;
  const unknownPrefix = config && prefix && prefix !== served;

  addEventListener("load", () => {
    if (unknownPrefix) {
      say(
        `The address begins with ${prefix}, a prefix that the server was not told of.`,
        `Start it with: opd serve --root-path ${prefix}`,
      );
    }
    if (moved && !isSecureContext) return ask();
    const late = setTimeout(ask, PATIENCE);
    customElements.whenDefined("gradio-app").then(() => clearTimeout(late));
  });

  async function ask() {
    const answer = await fetch("api/v1/health", { method: "POST" }).catch(() => null);
    const refusal = answer?.status === 403 ? await answer.json().catch(() => null) : null;
    if (refusal?.error)
      say(`The server refuses what this page sends: ${refusal.error}.`, refusal.hint, refusal.lines);
  }

  /** @param {string} message @param {string} [hint] @param {Record<string, string>} [lines] by proxy */
  function say(message, hint = "", lines = {}) {
    const box = document.createElement("div");
    box.className = "opd-first-look";
    box.setAttribute("role", "alert");
    const parts = [part("p", message), part("p", hint)];
    for (const [name, line] of Object.entries(lines)) parts.push(part("p", `${name}:`), part("pre", line));
    if (Object.keys(lines).length) parts.push(part("p", "More: docs/proxy.md"));
    box.append(...parts.filter((one) => one.textContent));
    document.body.prepend(box);
  }

  /** @param {string} tag @param {string} text */
  function part(tag, text) {
    const element = document.createElement(tag);
    element.textContent = text;
    return element;
  }
})();
