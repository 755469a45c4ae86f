// A small line chart as SVG, for reports: plotly.js would be most of the file.
import { h } from "../lib/dom.js";
import { integer } from "../lib/format.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [560, 196, 48, 12, 12, 24];
const SERIES = 4; // line styles in report.css

/** @param {string} tag @param {Props} attributes @param {...(Node | string)} children */
function s(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/**
 * `lines`: {name, x, y} with null where a step has no value; `show` writes a value.
 * `levels` are drawn across, dashed, with their text.
 * @param {string} title @param {string} unit @param {ReportLine[]} lines @param {(value: number) => string} show
 * @param {ReportLevel[]} [levels]
 */
export function lineChart(title, unit, lines, show, levels = []) {
  const filled = lines.map(present).filter((line) => line.points.length);
  const last = filled.length === 1 ? show(lastOf(filled[0])) : "";
  return h(
    "figure",
    { class: "panel chart", "data-chart": title },
    h(
      "figcaption",
      {},
      h("h2", { text: title }),
      h("span", { class: "muted", text: unit }),
      h("span", { class: "spacer" }),
      h("span", { class: "num", text: last }),
    ),
    filled.length
      ? drawing(title, filled, show, levels)
      : h("div", { class: "face", text: "No data stored." }),
    filled.length > 1 &&
      h(
        "ul",
        { class: "report-legend" },
        filled.map((line, i) =>
          h(
            "li",
            { class: `series${i % SERIES}` },
            sample(),
            line.name,
            " ",
            h("span", { class: "num", text: show(lastOf(line)) }),
          ),
        ),
      ),
  );
}

/** The line style of a series, so that it is told apart without colour. */
function sample() {
  return s(
    "svg",
    { class: "report-plot", viewBox: "0 0 28 8", width: 28, height: 8, "aria-hidden": "true" },
    s("path", { d: "M0 4L28 4" }),
  );
}

/** @param {ReportLine} line */
function present({ name, x, y }) {
  /** @type {[number, number][]} */
  const points = [];
  for (const [i, value] of y.entries()) {
    const at = x[i];
    if (at !== null && typeof value === "number") points.push([at, value]);
  }
  return { name, points };
}

/** @param {ReportSeries} series */
function lastOf({ points }) {
  return points[points.length - 1][1];
}

/**
 * @param {string} title @param {ReportSeries[]} lines @param {(value: number) => string} show
 * @param {ReportLevel[]} levels
 */
function drawing(title, lines, show, levels) {
  const steps = lines.flatMap((line) => line.points.map(([x]) => x));
  const [first, end] = [Math.min(...steps), Math.max(...steps)];
  const values = [
    ...lines.flatMap((line) => line.points.map(([, y]) => y)),
    ...levels.map(({ value }) => value),
  ];
  const ticks = ticksOf(Math.min(0, ...values), Math.max(...values));
  const [low, high] = [ticks[0], ticks[ticks.length - 1]];
  /** @param {number} x */
  const px = (x) => LEFT + ((x - first) / (end - first || 1)) * (WIDTH - LEFT - RIGHT);
  /** @param {number} y */
  const py = (y) => HEIGHT - BOTTOM - ((y - low) / (high - low || 1)) * (HEIGHT - TOP - BOTTOM);
  const grid = ticks.map((y) => [
    s("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: py(y), y2: py(y) }),
    s("text", { x: LEFT - 6, y: py(y) + 4, "text-anchor": "end" }, show(y)),
  ]);
  const middle = Math.round((first + end) / 2);
  const marks = [...new Set([first, middle, end])].map((x) =>
    s(
      "text",
      { x: px(x), y: HEIGHT - 6, "text-anchor": x === first ? "start" : x === end ? "end" : "middle" },
      integer(x),
    ),
  );
  const drawn = lines.map((line, i) => {
    const path = line.points
      .map(([x, y], k) => `${k ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`)
      .join("");
    const dots =
      line.points.length > 60
        ? []
        : line.points.map(([x, y]) => dot(px(x), py(y), `step ${integer(x)}: ${line.name} ${show(y)}`));
    return s("g", { class: `series${i % SERIES}` }, s("path", { d: path }), ...dots);
  });
  const across = levels.flatMap(({ value, text }) => [
    s("line", { class: "level", x1: LEFT, x2: WIDTH - RIGHT, y1: py(value), y2: py(value) }),
    s("text", { x: WIDTH - RIGHT, y: py(value) + (py(value) < 24 ? 14 : -4), "text-anchor": "end" }, text),
  ]);
  const words = lines
    .map((line) => `${line.name} from ${show(line.points[0][1])} to ${show(lastOf(line))}`)
    .concat(levels.map(({ text }) => text))
    .join("; ");
  return s(
    "svg",
    {
      class: "report-plot",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-label": `${title} by step: ${words}`,
    },
    ...grid.flat(),
    ...marks,
    ...across,
    ...drawn,
  );
}

/** @param {number} x @param {number} y @param {string} words */
function dot(x, y, words) {
  return s("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: 2.5 }, s("title", {}, words));
}

/**
 * Round values from at most `low` to at least `high`, three to six of them.
 * @param {number} low @param {number} high
 */
function ticksOf(low, high) {
  const size = 10 ** Math.floor(Math.log10(high - low || 1));
  const step = [0.2, 0.5, 1, 2].map((f) => f * size).find((f) => (high - low) / f <= 5) ?? size;
  const start = Math.floor(low / step) * step;
  const count = Math.max(1, Math.ceil((high - start) / step - 1e-9));
  return Array.from({ length: count + 1 }, (_, i) => Number((start + i * step).toPrecision(12)));
}
