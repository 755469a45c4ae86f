// A chat with student and teacher.
import { fill, h } from "./dom.js";

export function mount(root, params) {
  fill(root, h("h1", { text: "Playground" }));
}
