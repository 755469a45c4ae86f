// The marks of the open rollout: read, made, changed and removed.
import { CHANGEABLE, get, send } from "../../lib/api.js";

export class MarkStore {
  /** @param {ViewStore} state */
  constructor(state) {
    this.state = state;
    this.changeable = CHANGEABLE;
    /** @type {Map<string, RolloutMark[]>} by rollout, where they are newer than its description */
    this.newer = new Map();
  }

  /** Shows the marks of the rollout that has been opened. */
  follow() {
    this.state.subscribe(["rollout"], ({ rollout }) => {
      if (rollout) this.state.patch({ marks: this.newer.get(rollout.meta.id) ?? rollout.meta.marks ?? [] });
    });
  }

  /** The mark on a token (null: on the rollout). @param {number | null} position */
  at(position) {
    return this.state.get().marks.find((mark) => mark.position === position) ?? null;
  }

  /** What others have marked since the open rollout was read. */
  async refresh() {
    const id = this.state.get().rollout?.meta.id;
    if (!id || !this.changeable) return;
    const { items } = await get(`rollouts/${id}/marks`).catch(() => ({ items: null })); // those known stay
    if (items) this.take(id, items);
  }

  /**
   * Marks a place, or changes the note of the mark that is there. Raises ApiError, with `current` where
   * somebody else was faster.
   * @param {string} rollout @param {number | null} position @param {string} note
   * @param {{id: string, version: number} | null} seen the mark that the editor has seen
   */
  async save(rollout, position, note, seen) {
    /** @type {RolloutMark} */
    const mark = seen
      ? await send("PATCH", `marks/${seen.id}`, { note }, { "If-Match": `"${seen.version}"` })
      : await send("POST", `rollouts/${rollout}/marks`, { position, note });
    this.put(rollout, position, mark);
  }

  /** @param {RolloutMark} mark as the editor has seen it */
  async remove(mark) {
    await send("DELETE", `marks/${mark.id}`, null, { "If-Match": `"${mark.version}"` });
    this.put(mark.rollout_id, mark.position, null);
  }

  /** @param {string} rollout @param {number | null} position @param {RolloutMark | null} mark */
  put(rollout, position, mark) {
    const { state } = this;
    const open = state.get().rollout?.meta;
    const before = this.newer.get(rollout) ?? (open?.id === rollout ? state.get().marks : null);
    if (!before) return; // it is read when the rollout is opened
    const others = before.filter((one) => one.position !== position);
    this.take(rollout, mark ? [...others, mark] : others);
  }

  /** @param {string} rollout @param {RolloutMark[]} marks */
  take(rollout, marks) {
    this.newer.set(rollout, marks);
    if (this.state.get().rollout?.meta.id === rollout) this.state.patch({ marks });
  }
}
