import assert from "node:assert/strict";
import { test } from "node:test";

// theme.js asks for the system's colours as soon as it is imported.
globalThis.matchMedia = () => ({ matches: false, addEventListener() {} });
const { choicesOf, targetOf, writeAddress } = await import("../../app/static/rollout/address.js");

const choices = (query) => choicesOf(new URLSearchParams(query));
const target = (query) => targetOf(new URLSearchParams(query));

test("an address without choices shows the reverse KL on the run's scale", () => {
  const { metricKey, max, gamma, own, tab } = choices("");
  assert.deepEqual(
    { metricKey, max, gamma, own, tab },
    { metricKey: "reverse_kl", max: 0, gamma: 0.6, own: false, tab: "token" },
  );
});

test("gamma is kept within its limits, and what is not a number is the usual one", () => {
  assert.deepEqual(
    ["gamma=9", "gamma=0.01", "gamma=1.5", "gamma=x"].map((query) => choices(query).gamma),
    [2, 0.2, 1.5, 0.6],
  );
});

test("a position that is not a whole number pins nothing; an id that is none compares with nothing", () => {
  assert.deepEqual(
    ["pos=7", "pos=-1", "pos=1e3", ""].map((query) => target(query).pos),
    [7, -1, -1, -1],
  );
  assert.equal(target("with=roll-abc").other, "roll-abc");
  assert.equal(target("with=<script>").other, null);
});

test("what is written into the address is read back", () => {
  let written = "";
  globalThis.window = { history: { replaceState: (_state, _title, address) => (written = address) } };
  const shown = {
    rollout: { meta: { id: "roll-1" } },
    compared: { id: "roll-2" },
    pinned: 12,
    metricKey: "log_ratio",
    max: 3,
    gamma: 1.1,
    own: true,
    tab: "what-if",
    reader: "teacher",
  };
  writeAddress("replace", shown, { filters: { kind: "eval" }, at: 4 });
  const query = written.split("?")[1];
  assert.deepEqual(target(query), { id: "roll-1", pos: 12, other: "roll-2", at: 4 });
  const { metricKey, max, gamma, own, tab, reader } = choices(query);
  assert.deepEqual(
    [metricKey, max, gamma, own, tab, reader],
    ["log_ratio", 3, 1.1, true, "what-if", "teacher"],
  );
});
