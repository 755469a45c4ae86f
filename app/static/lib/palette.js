// Colours of a tint: 65 levels of a sequential palette, 65 of a diverging one, and which level a value has.

export const LEVELS = 64;
export const GAMMA = 0.6; // exponent of the scale where none is chosen
const ORANGES = [
  "#fff5eb",
  "#fee6ce",
  "#fdd0a2",
  "#fdae6b",
  "#fd8d3c",
  "#f16913",
  "#d94801",
  "#a63603",
  "#7f2704",
];
const CIVIDIS = [
  "#00224e",
  "#123570",
  "#3b496c",
  "#575d6d",
  "#707173",
  "#8a8678",
  "#a59c74",
  "#c3b369",
  "#e1cc55",
  "#fee838",
];
const LIGHT_CIVIDIS = [
  "#f7f1cf",
  "#e8dc98",
  "#cdbf74",
  "#a59c74",
  "#83817a",
  "#5f6370",
  "#3b496c",
  "#123570",
  "#00224e",
];
const COLD = ["#d8e6f3", "#b1d0e9", "#7fb3dc", "#4a90c8", "#2166ac", "#0b3d78"];
const WARM = ["#fee0b6", "#fdc98a", "#f9a552", "#e08214", "#b35806", "#7f3b08"];
const DARK_ORANGES = ["#3a2413", "#5e3110", "#86430c", "#b2580c", "#dd7318", "#f9923c", "#fdb06a", "#fed0a0"];
const DARK_COLD = ["#15293f", "#1c3f65", "#245a91", "#3a7cbd", "#6ba5dc", "#a9ccf0"];
const DARK_WARM = ["#3a2413", "#6a370f", "#9c4e0b", "#cf6b15", "#f49645", "#fecb95"];
/** @type {[string, string][]} */
export const PALETTES = [
  ["oranges", "Oranges"],
  ["cividis", "Cividis"],
];

/**
 * Hexadecimal colours by level, 0 to LEVELS: sequential (`up`), and both arms of a diverging palette.
 * @param {string} name @param {boolean} dark
 */
export function tintsOf(name, dark) {
  const base = dark ? "#1a1c1f" : "#ffffff"; // --surface of base.css
  const up = name === "cividis" ? cividis(dark) : dark ? DARK_ORANGES : ORANGES.slice(1);
  return {
    up: ramp([base, ...up]),
    cold: ramp([base, ...(dark ? DARK_COLD : COLD)]),
    warm: ramp([base, ...(dark ? DARK_WARM : WARM)]),
  };
}

/**
 * Level of a size ≥ 0 on a scale that ends at `top`: (size / top) ^ gamma; `logarithmic`: of log(1 + ·).
 * @param {number} size @param {number} top @param {number} gamma
 */
export function levelOf(size, top, gamma, logarithmic = false) {
  if (!(size > 0)) return 0;
  const share = logarithmic ? Math.log1p(size) / Math.log1p(top) : size / top;
  return Math.min(LEVELS, Math.round(Math.min(1, share) ** gamma * LEVELS));
}

/** @param {boolean} dark */
function cividis(dark) {
  return dark ? CIVIDIS : LIGHT_CIVIDIS;
}

/**
 * The tint's class: level 0 is bare. Sign −1 is drawn cold, +1 warm, 0 sequential.
 * @param {number} level @param {number} sign
 */
export function classOf(level, sign) {
  if (level === 0) return "";
  return (sign === 0 ? "q" : sign < 0 ? "c" : "w") + level;
}

/** @param {string[]} stops */
function ramp(stops) {
  const points = stops.map(rgb);
  return Array.from({ length: LEVELS + 1 }, (_, level) => {
    const at = (level / LEVELS) * (points.length - 1);
    const i = Math.min(points.length - 2, Math.floor(at));
    return hex(points[i].map((v, k) => v + (points[i + 1][k] - v) * (at - i)));
  });
}

/**
 * The page's ink where it reads well on a colour (4.5 to 1), else white or black.
 * @param {string} colour @param {string} ink
 */
export function inkOn(colour, ink) {
  if (contrast(colour, ink) >= 4.5) return ink;
  return contrast(colour, "#ffffff") > contrast(colour, "#000000") ? "#ffffff" : "#000000";
}

/** Contrast ratio of two colours, 1 to 21 (WCAG). @param {string} one @param {string} other */
export function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

/** @param {string} colour */
function luminance(colour) {
  const [r, g, b] = rgb(colour).map((v) => {
    const c = v / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** @param {string} text */
function rgb(text) {
  return [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));
}

/** @param {number[]} values */
function hex(values) {
  return `#${values.map((v) => Math.round(v).toString(16).padStart(2, "0")).join("")}`;
}
