// What the token page shows, as one observable: frozen snapshots, changed only by patch().

/**
 * `patch(changes)` makes a new snapshot and calls whoever subscribed to a field that changed, in the
 * order of subscription and before it returns. A subscriber may patch: those before it are called
 * again with the newest snapshot, those after it see only that one.
 * @template {object} T
 * @param {T} initial
 */
export function observable(initial) {
  let snapshot = Object.freeze({ ...initial });
  let telling = false;
  /** @type {Set<{fields: (keyof T)[], action: (now: T, before: T) => void, seen: T}>} */
  const subscribers = new Set();

  function tell() {
    telling = true;
    try {
      for (let again = true; again; ) {
        again = false;
        for (const subscriber of [...subscribers]) again = call(subscriber) || again;
      }
    } finally {
      telling = false;
    }
  }

  /** @param {{fields: (keyof T)[], action: (now: T, before: T) => void, seen: T}} subscriber */
  function call(subscriber) {
    const before = subscriber.seen;
    subscriber.seen = snapshot;
    if (!subscribers.has(subscriber)) return false; // it left while others were called
    if (!subscriber.fields.some((field) => before[field] !== snapshot[field])) return false;
    subscriber.action(snapshot, before);
    return true;
  }

  return Object.freeze({
    get: () => snapshot,

    /** @param {Partial<T>} changes */
    patch(changes) {
      if (
        Object.entries(changes).every(([field, value]) => snapshot[/** @type {keyof T} */ (field)] === value)
      )
        return;
      snapshot = Object.freeze({ ...snapshot, ...changes });
      if (!telling) tell();
    },

    /**
     * Calls `action(now, before)` after every patch that changes one of `fields`; → a function that
     * ends it. `before` is the snapshot that this subscriber saw last.
     * @param {(keyof T)[]} fields
     * @param {(now: T, before: T) => void} action
     */
    subscribe(fields, action) {
      const subscriber = { fields, action, seen: snapshot };
      subscribers.add(subscriber);
      return () => void subscribers.delete(subscriber);
    },
  });
}

/**
 * The token that the panels show: the one under the pointer, else the pinned one; −1 for none.
 * @param {Pick<ViewState, "pointed" | "pinned">} options
 */
export function shownToken({ pointed, pinned }) {
  return pointed >= 0 ? pointed : pinned;
}

/**
 * Whether two rollouts are the same record, perhaps with more columns.
 * @param {Rollout | null | undefined} one @param {Rollout | null | undefined} other
 */
export function sameRollout(one, other) {
  return one?.meta.id === other?.meta.id;
}

/**
 * Whether two rollouts have the very same tokens, so that the text and the place in it can stay.
 * @param {Rollout} one @param {Rollout} other
 */
export function sameTokens(one, other) {
  return (
    sameIds(one.promptIds, other.promptIds) &&
    sameIds(one.columns.completion_ids, other.columns.completion_ids)
  );
}

/** @param {IntColumn} one @param {IntColumn} other */
function sameIds(one, other) {
  return one.length === other.length && one.every((id, i) => id === other[i]);
}

/**
 * `compute(object, …)`, called once for each object and kept as long as that object lives.
 * @template {object} O
 * @template {unknown[]} A
 * @template R
 * @param {(object: O, ...rest: A) => R} compute
 * @returns {(object: O, ...rest: A) => R}
 */
export function oncePerObject(compute) {
  /** @type {WeakMap<O, R>} */
  const results = new WeakMap();
  return (object, ...rest) => {
    if (!results.has(object)) results.set(object, compute(object, ...rest));
    return /** @type {R} */ (results.get(object));
  };
}
