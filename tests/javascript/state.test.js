import assert from "node:assert/strict";
import { test } from "node:test";
import { observable, oncePerObject, sameTokens, shownToken } from "../../app/static/rollout/state.js";

function recorder(state, fields) {
  const calls = [];
  state.subscribe(fields, (now, before) => calls.push([{ ...before }, { ...now }]));
  return calls;
}

test("snapshots are frozen, and one that was taken stays as it was", () => {
  const state = observable({ a: 1, b: 2 });
  const before = state.get();
  state.patch({ a: 3 });
  assert.deepEqual([before.a, state.get().a, state.get().b], [1, 3, 2]);
  assert.throws(() => {
    state.get().a = 4;
  }, TypeError);
  assert.throws(() => {
    state.get = null;
  }, TypeError);
});

test("only who follows a changed field is called, before patch returns", () => {
  const state = observable({ a: 1, b: 2 });
  const [ofA, ofB] = [recorder(state, ["a"]), recorder(state, ["b"])];
  state.patch({ a: 3 });
  state.patch({ a: 3, b: 2 }); // nothing changes
  assert.deepEqual(ofA, [
    [
      { a: 1, b: 2 },
      { a: 3, b: 2 },
    ],
  ]);
  assert.deepEqual(ofB, []);
});

test("what a subscriber derives is there for those after it, in the same round", () => {
  const state = observable({ a: 1, twice: 2 });
  state.subscribe(["a"], (now) => state.patch({ twice: 2 * now.a }));
  const seen = [];
  state.subscribe(["a", "twice"], (now) => seen.push([now.a, now.twice]));
  state.patch({ a: 5 });
  assert.deepEqual(seen, [[5, 10]]);
});

test("a patch by a later subscriber reaches those before it, and ends", () => {
  const state = observable({ a: 1, b: 0 });
  const seen = recorder(state, ["b"]);
  state.subscribe(["a"], (now) => state.patch({ b: now.a }));
  state.patch({ a: 7 });
  assert.deepEqual(
    seen.map(([, now]) => now.b),
    [7],
  );
});

test("who has left is called no more, also when it left during the round", () => {
  const state = observable({ a: 1 });
  let calls = 0;
  let leave = () => {};
  state.subscribe(["a"], () => leave());
  leave = state.subscribe(["a"], () => calls++);
  state.patch({ a: 2 });
  assert.equal(calls, 0);
});

test("an error of one subscriber does not silence later patches", () => {
  const state = observable({ a: 1 });
  let fails = true;
  state.subscribe(["a"], () => {
    if (fails) throw new Error("once");
  });
  const seen = recorder(state, ["a"]);
  assert.throws(() => state.patch({ a: 2 }), /once/);
  fails = false;
  state.patch({ a: 3 });
  assert.equal(seen.at(-1)[1].a, 3);
});

test("the token under the pointer goes before the pinned one", () => {
  assert.equal(shownToken({ pointed: 0, pinned: 4 }), 0);
  assert.equal(shownToken({ pointed: -1, pinned: 4 }), 4);
  assert.equal(shownToken({ pointed: -1, pinned: -1 }), -1);
});

test("the same tokens are those of prompt and completion", () => {
  const of = (prompt, completion) => ({
    promptIds: Uint32Array.from(prompt),
    columns: { completion_ids: Uint32Array.from(completion) },
  });
  assert.ok(sameTokens(of([1], [2, 3]), of([1], [2, 3])));
  assert.ok(!sameTokens(of([1], [2, 3]), of([1], [2, 4])));
  assert.ok(!sameTokens(of([1], [2, 3]), of([], [2, 3])));
});

test("a result is computed once for each object", () => {
  let count = 0;
  const sizeOf = oncePerObject((list, more) => {
    count++;
    return list.length + more;
  });
  const list = [1, 2];
  assert.deepEqual([sizeOf(list, 1), sizeOf(list, 1), sizeOf([1], 1), count], [3, 3, 2, 2]);
});
