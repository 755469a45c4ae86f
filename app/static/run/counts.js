// Why an evaluation counts fewer prompts than were asked for, as pages and reports say it.
import { integer } from "../lib/format.js";

/** One evaluation: "8 of 200 held-out prompts: 190 not held out …". @param {EvaluationCount} count */
function countText({ suite, asked, used, missing }) {
  const what = suite === "heldout" ? "held-out prompts" : `prompts of ${suite}`;
  const reasons = missing.map((one) => `${integer(one.count)} ${one.text}`).join("; ");
  return `${integer(used)} of ${integer(asked)} ${what}: ${reasons}`;
}

/** Of all that have fewer; empty where none has. @param {EvaluationCount[] | null | undefined} counts */
export function countsText(counts) {
  const fewer = (counts ?? []).filter((one) => one.missing.length > 0);
  return fewer.map(countText).join(". ");
}

/** Beside a score: " · n = 8", why so few on hover. @param {EvaluationCount[] | null | undefined} counts */
export function shortCount(counts) {
  const main = (counts ?? []).find((one) => one.suite === "heldout");
  return main?.missing.length ? ` · n = ${integer(main.used)}` : "";
}
