// Equal entries of a list stand together: an evaluation and a probe of one step have one text.

/**
 * The items in groups of one key, each where its first item is; an item without a key is a group.
 * @template T
 * @param {T[]} items @param {(item: T) => string | null} keyOf
 * @returns {T[][]}
 */
export function grouped(items, keyOf) {
  /** @type {Map<string | T, T[]>} */
  const groups = new Map();
  for (const item of items) {
    const key = keyOf(item) ?? item;
    const group = groups.get(key);
    if (group) group.push(item);
    else groups.set(key, [item]);
  }
  return [...groups.values()];
}

/** "eval, probe ×3": how often each kind is among the items. @param {{kind?: string}[]} items */
export function kindsOf(items) {
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const { kind = "" } of items) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  return [...counts].map(([kind, count]) => (count > 1 ? `${kind} ×${count}` : kind)).join(", ");
}
