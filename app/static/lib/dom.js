// Builds the page from elements and text nodes; nothing here parses markup.

/**
 * An element with attributes, listeners (`onclick`), `text`, `data`, `style`, and children.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {Props | null} [props] @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) setProperty(element, name, value);
  append(element, children);
  return element;
}

/** @param {any} element @param {string} name @param {any} value */
function setProperty(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name === "class") element.className = value;
  else if (name === "text") element.textContent = value;
  else if (name === "data") Object.assign(element.dataset, value);
  else if (name === "style") for (const [k, v] of Object.entries(value)) element.style.setProperty(k, v);
  else if (name === "value" || name === "checked") element[name] = value;
  else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else element.setAttribute(name, value === true ? "" : value);
}

/** @param {Element} element @param {Child[]} children */
function append(element, children) {
  for (const child of /** @type {any[]} */ (children).flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/**
 * Replaces what is in an element.
 * @template {Element} E
 * @param {E} element @param {...Child} children
 */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/**
 * Calls `action` once, `wait` ms after the last call.
 * @template {unknown[]} A
 * @param {number} wait @param {(...args: A) => unknown} action
 * @returns {(...args: A) => void}
 */
export function debounce(wait, action) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), wait);
  };
}

/**
 * Calls `action` at most once per frame, with the newest arguments.
 * @template {unknown[]} A
 * @param {(...args: A) => unknown} action
 * @returns {(...args: A) => void}
 */
export function onFrame(action) {
  /** @type {A | null} */
  let waiting = null;
  return (...args) => {
    if (waiting === null) {
      requestAnimationFrame(() => {
        const last = waiting;
        waiting = null;
        if (last) action(...last);
      });
    }
    waiting = args;
  };
}

/** @param {Child} label @param {((event: MouseEvent) => unknown) | null} onclick @param {Props} [props] */
export function button(label, onclick, props = {}) {
  return h("button", { type: "button", class: "btn", onclick, ...props }, label);
}

/** @param {Child} label @param {string} href @param {Props} [props] */
export function link(label, href, props = {}) {
  return h("a", { href, ...props }, label);
}

/**
 * A list to choose from; `options`: [value, label, attributes?].
 * @param {Option[]} options @param {string} value @param {(value: string) => unknown} onchange
 * @param {Props} [props]
 */
export function select(options, value, onchange, props = {}) {
  const items = options.map(([key, label, attributes]) => h("option", { value: key, ...attributes }, label));
  const element = h("select", { class: "field", ...props }, items);
  element.value = value;
  element.addEventListener("change", () => onchange(element.value));
  return element;
}

/**
 * A labelled number field within limits.
 * @param {string} id @param {string} label @param {number | string} value
 * @param {{min: number, max: number, step?: number | "any", title?: string}} limits
 */
export function numberField(id, label, value, { min, max, step = 1, title = "" }) {
  const input = h("input", {
    class: "field num",
    type: "number",
    id,
    min,
    max,
    step,
    value: String(value),
    inputmode: "decimal",
  });
  return {
    input,
    element: h(
      "label",
      { class: "labelled-field", for: id, title },
      h("span", { class: "muted", text: label }),
      input,
    ),
  };
}

/**
 * Runs `action` every `wait` ms while the page can be seen, never twice at once; → a function that stops it.
 * @param {number} wait @param {() => unknown} action
 */
export function poll(wait, action) {
  let stopped = false;
  let timer = 0;
  const tick = async () => {
    clearTimeout(timer);
    if (stopped) return;
    if (!document.hidden) await action();
    if (!stopped) timer = setTimeout(tick, wait);
  };
  const wake = () => !document.hidden && tick();
  document.addEventListener("visibilitychange", wake);
  timer = setTimeout(tick, wait);
  return () => {
    stopped = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", wake);
  };
}

/** Whether an event is of a field or of a dialog, where keys are typed. @param {Event} event */
export function inField(event) {
  return event.target instanceof Element && event.target.closest("input, select, textarea, dialog") !== null;
}

/** @param {string} label @param {() => string} textOf */
export function copyButton(label, textOf) {
  const element = button(label, async () => {
    element.textContent = (await copy(textOf())) ? "Copied" : "Select and copy manually";
    setTimeout(() => {
      element.textContent = label;
    }, 1600);
  });
  return element;
}

/** @param {string} text */
async function copy(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return false;
    }
  }
  const area = h("textarea", { value: text, class: "offscreen" });
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

/** @param {string} message @param {string} [actionLabel] @param {() => unknown} [action] */
export function toast(message, actionLabel, action, seconds = 8) {
  document.querySelector(".toast")?.remove();
  const close = () => element.remove();
  const element = h("div", { class: "toast", role: "status" }, h("span", { text: message }));
  const act = () => {
    close();
    action?.();
  };
  if (actionLabel) element.append(button(actionLabel, act, { class: "btn strong" }));
  document.body.append(element);
  setTimeout(close, seconds * 1000);
}

/**
 * A box that scrolls sideways where it must; the Tab key reaches it only there.
 * @param {string} label
 */
export function scrollBox(label) {
  const box = h("div", { class: "scroll-x" });
  const check = () => {
    if (box.scrollWidth > box.clientWidth)
      Object.assign(box, { tabIndex: 0, role: "region", ariaLabel: `${label}, scrollable` });
    else for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
  };
  new ResizeObserver(check).observe(box);
  new MutationObserver(check).observe(box, { childList: true, subtree: true });
  return box;
}
