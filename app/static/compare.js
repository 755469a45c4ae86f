// Runs over a chosen axis.
import { fill, h } from "./dom.js";

export function mount(root, params) {
  fill(root, h("h1", { text: "Compare" }));
}
