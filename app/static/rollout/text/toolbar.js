// The one row of controls above the token view, and the legend under it.
import { button, debounce, fill, h, select } from "../../lib/dom.js";
import { number } from "../../lib/format.js";
import { LEVELS, levelOf, PALETTES } from "../../lib/palette.js";
import { colourOf } from "../../lib/tints.js";
import { METRICS, reasonAgainst, unitOf } from "./metrics.js";

export class Toolbar {
  /**
   * `on`: metric(key), scale(changes), palette(name), underline(on), plain(on), search(text), next(step), help();
   * `choices` are what it shows first.
   * @param {ToolbarChoices} choices @param {ToolbarActions} on
   */
  constructor(choices, on) {
    this.on = on;
    this.metric = select([], "", on.metric, { id: "metric", "aria-label": "Metric" });
    this.max = maxField(choices.max, (max) => on.scale({ max }));
    this.unit = h("span", { class: "muted" });
    this.gamma = h("input", {
      id: "scale-gamma",
      type: "range",
      min: "0.2",
      max: "2",
      step: "0.05",
      value: choices.gamma,
      "aria-label": "Gamma of the scale",
      oninput: () => {
        this.gammaText.textContent = number(Number(this.gamma.value), 2);
        on.scale({ gamma: Number(this.gamma.value) });
      },
    });
    this.gammaText = h("span", { class: "num muted gamma", text: number(choices.gamma, 2) });
    this.own = check("Scale to this rollout", choices.own, (own) => on.scale({ own }));
    this.search = searchField(on);
    this.plain = button("¶", () => on.plain(this.plain.getAttribute("aria-pressed") !== "true"), {
      class: "btn small",
      id: "plain-text",
      title: "Plain text: the completion as running text, without tokens",
      "aria-label": "Plain text",
      "aria-pressed": "false",
    });
    this.count = h("span", { class: "num muted count", role: "status" });
    this.element = h(
      "div",
      { class: "rt-bar", role: "toolbar", "aria-label": "View" },
      label("Metric", this.metric),
      label("Max", this.max, this.unit),
      label("Gamma", this.gamma, this.gammaText),
      this.own,
      select(PALETTES, choices.palette, on.palette, { id: "palette", "aria-label": "Palette" }),
      check("Underline", choices.underline, on.underline),
      h("span", { class: "spacer" }),
      this.search,
      this.count,
      this.plain,
      button("?", on.help, {
        class: "btn small",
        title: "Keyboard shortcuts, and how to read this page",
        "aria-label": "Keyboard shortcuts and guide",
      }),
    );
  }

  /**
   * Lists the metrics of a rollout; one that cannot be shown is disabled, with the reason.
   * @param {Readonly<ViewState>} view
   */
  showMetric({ rollout, chosen, metric, tints }) {
    if (!rollout || !tints) return;
    fill(
      this.metric,
      METRICS.map((m) => {
        const reason = reasonAgainst(m, rollout);
        const text = reason ? `${m.label} – ${reason}` : m.label;
        return h("option", { value: m.key, disabled: Boolean(reason), title: reason || m.means }, text);
      }),
    );
    if (metric.lab) this.metric.append(h("option", { value: metric.key }, metric.label));
    this.metric.value = metric.lab ? metric.key : chosen.key;
    this.metric.title = metric.means;
    this.unit.textContent = unitOf(metric);
    this.max.placeholder = number(tints.top);
  }

  /** @param {boolean} on */
  showPlain(on) {
    this.plain.setAttribute("aria-pressed", String(on));
  }

  clearMax() {
    this.max.value = "";
  }

  /** @param {string} text */
  showCount(text) {
    this.count.textContent = text;
  }
}

/** @param {string} text @param {...Child} controls */
function label(text, ...controls) {
  return h("label", { class: "control" }, h("span", { class: "muted", text }), controls);
}

/** @param {string} text @param {boolean} checked @param {(on: boolean) => unknown} onchange */
function check(text, checked, onchange) {
  const box = h("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return h("label", { class: "control" }, box, h("span", { text }));
}

/** @param {number} value @param {(max: number) => unknown} changed */
function maxField(value, changed) {
  const input = h("input", {
    class: "field num",
    id: "scale-max",
    type: "number",
    min: "0",
    step: "any",
    value: value || "",
    "aria-label": "Maximum of the scale",
  });
  input.addEventListener(
    "input",
    debounce(150, () => changed(Number(input.value) || 0)),
  );
  return input;
}

/** @param {ToolbarActions} on */
function searchField(on) {
  const input = h("input", {
    class: "field",
    id: "token-search",
    type: "search",
    placeholder: "Search",
    "aria-label": "Search in the completion",
    onkeydown: (/** @type {KeyboardEvent} */ e) => {
      if (e.key === "Enter") on.next(e.shiftKey ? -1 : 1);
    },
  });
  input.addEventListener(
    "input",
    debounce(80, () => on.search(input.value)),
  );
  return input;
}

/**
 * What the tint means, and its scale.
 * @param {HTMLElement} element
 * @param {Tints} tints
 * @param {number} gamma
 * @param {number | null | undefined} temperature
 */
export function legend(element, tints, gamma, temperature) {
  const { metric, top } = tints;
  if (metric.key === "none")
    return fill(
      element,
      h("span", { class: "muted", text: "This rollout has no scores yet: opd score adds them." }),
    );
  const steps = metric.signed ? [-1, 1] : [0];
  const swatches = steps.flatMap((sign) => {
    const cells = Array.from({ length: 24 }, (_, k) => {
      const level = levelOf(((k + 0.5) / 24) * top, top, gamma, false);
      return h("span", { class: "lg-cell", style: { background: colourOf(level, sign) } });
    });
    return sign < 0 ? cells.reverse() : cells;
  });
  const unit = unitOf(metric);
  /** @param {number | string} value */
  const end = (value) => h("span", { class: "num", text: `${value}${unit ? ` ${unit}` : ""}` });
  const warm = metric.warm ?? 1;
  const low = metric.signed ? (warm > 0 ? `−${number(top)}` : number(top)) : "0";
  const high = metric.signed && warm < 0 ? `−${number(top)}` : number(top);
  fill(
    element,
    h("span", { class: "lg-text muted", text: `${metric.means}, temperature ${number(temperature, 2)}` }),
    h("span", { class: "spacer" }),
    metric.log ? h("span", { class: "muted", text: "logarithmic" }) : null,
    h("span", { class: "num", text: low }),
    h(
      "span",
      {
        class: "lg-ramp",
        role: "img",
        "aria-label": `Scale from ${low} to ${high} ${unit}, ${LEVELS} levels`,
      },
      swatches,
    ),
    end(high),
  );
}
