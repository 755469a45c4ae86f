// What the run's machine did over wall time: processor, memory, GPU; folded until it is asked for.
import { get } from "../lib/api.js";
import { finite, smoothed } from "../lib/charts/curves.js";
import { Chart } from "../lib/charts.js";
import { h } from "../lib/dom.js";
import { number, percent } from "../lib/format.js";

const GIB = 2 ** 30;
/** @type {{title: string, unit: string, lines: [name: string, label: string][], scale?: number, share?: boolean}[]} */
const CHARTS = [
  { title: "Processor, machine", unit: "of all cores", lines: [["system/cpu", "machine"]], share: true },
  { title: "Processor, run", unit: "cores", lines: [["system/process_cpu", "run"]] },
  {
    title: "Memory",
    unit: "GiB",
    scale: 1 / GIB,
    lines: [
      ["system/process_memory", "run"],
      ["system/memory", "machine"],
    ],
  },
  { title: "GPU use", unit: "of the time", lines: [["system/gpu", "GPU"]], share: true },
  {
    title: "GPU memory, device",
    unit: "GiB",
    scale: 1 / GIB,
    lines: [["system/gpu_memory", "GPU"]],
  },
];
const SLOW = 5000; // ms between looks at a run that goes on
const GAP = 3; // samples missing until a line breaks: the run was not running

export class SystemCurves {
  /** @param {string} run @param {() => number} weight of the smoothing that is chosen for all charts */
  constructor(run, weight) {
    this.run = run;
    this.weight = weight;
    this.at = -SLOW;
    /** @type {StepColumns} */
    this.columns = {};
    this.charts = CHARTS.map((spec) => {
      const chart = new Chart(spec.title, spec.unit);
      chart.explain(spec.lines.map(([name]) => name));
      return { spec, chart };
    });
    this.element = h(
      "details",
      { class: "more more-charts", id: "system", hidden: true, ontoggle: () => this.draw() },
      h("summary", { text: "Processor, memory, GPU" }),
      h(
        "div",
        { class: "chart-grid" },
        this.charts.map(({ chart }) => chart.element),
      ),
    );
  }

  /** Looks again, now and then. @param {boolean} live */
  async refresh(live) {
    const now = performance.now();
    if (this.at >= 0 && (!live || now - this.at < SLOW)) return;
    this.at = now;
    this.columns = (await get(`runs/${this.run}/system`)).columns;
    this.element.hidden = !(this.columns.time ?? []).length;
    this.draw();
  }

  draw() {
    if (!this.element.open || this.element.hidden) return;
    const { columns } = this;
    const time = finite(columns.time);
    const [unit, size] = (time.at(-1) ?? 0) - time[0] > 3 * 3600 ? ["hours", 3600] : ["minutes", 60];
    const x = time.map((at) => (at - time[0]) / size);
    const breaks = time.map((at, i) => i > 0 && at - time[i - 1] > GAP * Number(columns.every[i] ?? 0));
    const weight = this.weight();
    for (const { spec, chart } of this.charts) {
      const there = spec.lines.filter(([name]) => finite(columns[name] ?? []).length);
      chart.element.hidden = !there.length;
      if (!there.length) continue;
      chart.name(spec.title, `${spec.unit}, over ${unit}`);
      const scale = spec.scale ?? 1;
      const traces = there.map(([name, label]) => {
        const y = columns[name].map((v, i) => (v === null || breaks[i] ? null : v * scale));
        const line = { name: label, x, y, connectgaps: name.startsWith("system/gpu"), mode: "lines" };
        return weight ? { ...line, smooth: smoothed(y, weight) } : line;
      });
      chart.draw(traces, {
        xaxis: { tickformat: "~g", dtick: null, hoverformat: ".2~f" },
        yaxis: spec.share ? { range: [0, 1.02], tickformat: "~%" } : {},
      });
      const last = traces.map(({ y }) => finite(y).at(-1) ?? null);
      chart.now.textContent = last.map((v) => (spec.share ? percent(v) : number(v))).join("  ·  ");
    }
  }
}
