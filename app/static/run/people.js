// Who started, stopped and resumed a run, and where it runs.
import { isLive, plain } from "../lib/format.js";

const NAMELESS = "browser"; // of a token without a name

/** One line; empty where nobody has a name. @param {Run} run */
export function peopleText(run) {
  const stop = isLive(run.status) ? "Being stopped by" : "Stopped by";
  const named = [
    ["Started by", run.started_by],
    ["Resumed by", run.resumed_by],
    [stop, run.cancel_by],
  ];
  return named
    .filter(([, name]) => name && name !== NAMELESS)
    .map(([what, name]) => `${what} ${plain(name, 80)}.`)
    .join(" ");
}

/** Host, devices and job of a cluster. @param {Run} run */
export function placeText(run) {
  const running = run.status === "running";
  const parts = [run.host ?? "", (running && run.slot) || run.loaded_device, run.cluster_job ?? ""];
  const words = parts.filter(Boolean).map((part) => plain(part, 60));
  return `${running ? "on" : "ran on"} ${words.join(" · ")}`;
}
