// A request to the model process: sent, followed until it is answered, and cancelled.
import { get, send, signIn } from "./api.js";
import { button, h, poll } from "./dom.js";
import { duration } from "./format.js";

const LOOK_EVERY = 250; // ms

export class ModelRequest {
  /** @type {object | null} */
  turn;

  /**
   * `on`: change(state) while it is answered, done(answer), failed({message, hint}).
   * @param {{change: (state: ModelRequestState) => unknown, done: (answer: any, id: string) => unknown, failed: (error: ShownError) => unknown}} on
   */
  constructor(on) {
    this.on = on;
    this.id = null;
    this.stopLooking = () => {};
    addEventListener("pagehide", () => this.leave());
  }

  get busy() {
    return this.id !== null;
  }

  /** @param {string} path @param {object} body */
  async ask(path, body) {
    this.cancel();
    const turn = {};
    this.turn = turn;
    this.id = "";
    try {
      const { id } = await send("POST", path, body);
      if (turn !== this.turn) return void send("DELETE", `questions/${id}`).catch(() => {});
      this.id = id;
      this.stopLooking = poll(LOOK_EVERY, () => this.look(id));
    } catch (error) {
      if (turn === this.turn) this.end(() => this.on.failed(error));
    }
  }

  /** @param {string} id */
  async look(id) {
    let state;
    try {
      state = await get(`questions/${id}`);
    } catch (error) {
      if (error.status !== 0 && id === this.id) this.end(() => this.on.failed(error));
      return; // a server that is away for a moment is tried again
    }
    if (id !== this.id) return;
    if (state.state === "done") this.end(() => this.on.done(state.answer, id));
    else if (state.state === "failed")
      this.end(() => this.on.failed({ message: state.error_text, hint: state.hint, kind: state.error_kind }));
    else this.on.change(state);
  }

  /** @param {() => unknown} tell */
  end(tell) {
    this.stopLooking();
    this.id = null;
    this.turn = null;
    tell();
  }

  /** Nobody waits any more: the model process goes on to the next request. */
  cancel() {
    this.stopLooking();
    if (this.id) send("DELETE", `questions/${this.id}`).catch(() => {}); // it ends by itself then
    this.id = null;
    this.turn = null;
  }

  leave() {
    if (!this.id) return;
    fetch(`api/v1/questions/${this.id}`, {
      method: "DELETE",
      keepalive: true,
      credentials: "same-origin",
    }).catch(() => {});
  }
}

/**
 * Where a run has the GPU, a way to ask again for an answer on the processor.
 * @param {ShownError} error @param {() => unknown} ask
 */
export function onProcessor(error, ask) {
  if (error.kind !== "device busy") return null;
  return button("Answer on the processor", ask, { title: "Slower; takes no memory of the GPU" });
}

/** What is being done, in words, with the time left where it is known. @param {ModelRequestState} state */
export function progressText(state) {
  if (state.state === "queued") return "Waiting for the model process …";
  const text = state.phase || "starting";
  const left = state.answer?.progress?.left;
  const time = typeof left === "number" ? `, at most ${duration(left)} left` : "";
  return `${text[0].toUpperCase()}${text.slice(1)}${time} …`;
}

/** "" where this visitor may ask, else why not. */
export async function reasonAgainstRequests() {
  const health = await get("health");
  if (health.access === "view") return "This link is read-only; requests to the models need the full link.";
  if (health.access !== "full") return signIn();
  if (health.reason) return `Requests to the models would not be answered: ${health.reason}`;
  if (!health.supervisor)
    return "No supervisor is running, so requests to the models would not be answered. Start it with the server: opd serve";
  return "";
}

/** What the model process has in memory, as a status line. */
export async function modelsLine() {
  const { state, models } = await get("models/state");
  const named = models
    ? `${models.run ?? models.recipe}, ${models.step ? `checkpoint ${models.step}` : "start"}`
    : "";
  /** @type {Record<string, string>} */
  const words = {
    ready: `Models ready: ${named}`,
    loading: `Loading models: ${named}`,
    awake: "Model process ready, no models loaded",
    asleep: "No models loaded; the first request loads them",
  };
  return h("span", { class: "muted request-state", "data-state": state, text: words[state] ?? state });
}
