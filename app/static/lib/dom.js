// Builds the page from elements and text nodes; nothing here parses markup.

export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) setProperty(element, name, value);
  append(element, children);
  return element;
}

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

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

export function debounce(wait, action) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), wait);
  };
}

/** Calls `action` once a frame at most, with the newest arguments. */
export function onFrame(action) {
  let waiting = null;
  return (...args) => {
    if (waiting === null) {
      requestAnimationFrame(() => {
        const last = waiting;
        waiting = null;
        action(...last);
      });
    }
    waiting = args;
  };
}

export function button(label, onclick, props = {}) {
  return h("button", { type: "button", class: "btn", onclick, ...props }, label);
}

export function link(label, href, props = {}) {
  return h("a", { href, ...props }, label);
}

export function select(options, value, onchange, props = {}) {
  const items = options.map(([key, label, more]) => h("option", { value: key, ...more }, label));
  const element = h("select", { class: "field", ...props }, items);
  element.value = value;
  element.addEventListener("change", () => onchange(element.value));
  return element;
}

/** A labelled number field within limits. */
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
      { class: "ask-field", for: id, title },
      h("span", { class: "muted", text: label }),
      input,
    ),
  };
}

/** Runs `action` every `wait` ms while the page can be seen, never twice at once. */
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

export function copyButton(label, textOf) {
  const element = button(label, async () => {
    element.textContent = (await copy(textOf())) ? "Copied" : "Select and copy manually";
    setTimeout(() => {
      element.textContent = label;
    }, 1600);
  });
  return element;
}

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

export function toast(message, actionLabel, action, seconds = 8) {
  document.querySelector(".toast")?.remove();
  const close = () => element.remove();
  const element = h("div", { class: "toast", role: "status" }, h("span", { text: message }));
  const act = () => {
    close();
    action();
  };
  if (actionLabel) element.append(button(actionLabel, act, { class: "btn strong" }));
  document.body.append(element);
  setTimeout(close, seconds * 1000);
}
