// The palette in use, as rules of one style sheet.
import { inkOn, LEVELS, tintsOf } from "./palette.js";
import { isDark } from "./theme.js";

const sheet = new CSSStyleSheet();
let colours = tintsOf("oranges", false);

/** Sets the tints for a palette name and the present theme. @param {string} name */
export function usePalette(name) {
  const dark = isDark();
  colours = tintsOf(name, dark);
  const ink = dark ? "#e7e8ea" : "#1b1c1f"; // --ink of base.css
  const rules = [];
  /** @type {[string, string[]][]} */
  const lists = [
    ["q", colours.up],
    ["c", colours.cold],
    ["w", colours.warm],
  ];
  for (const [letter, list] of lists) {
    for (let level = 1; level <= LEVELS; level++) {
      rules.push(`.${letter}${level}{background-color:${list[level]};color:${inkOn(list[level], ink)}}`);
    }
  }
  sheet.replaceSync(rules.join("\n"));
  if (!document.adoptedStyleSheets.includes(sheet)) document.adoptedStyleSheets.push(sheet);
}

/** @param {number} level @param {number} sign */
export function colourOf(level, sign) {
  return (sign === 0 ? colours.up : sign < 0 ? colours.cold : colours.warm)[level];
}
