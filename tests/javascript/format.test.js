import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ago,
  duration,
  fixed,
  leaning,
  nats,
  number,
  ordinal,
  percent,
  plain,
  probability,
  setClock,
  short,
} from "../../app/static/lib/format.js";

const SECOND = 1000;

test("numbers keep three digits, and what is absent is a dash", () => {
  assert.deepEqual(
    [0, 1.2345, 123.4, -0.5, null, Number.NaN].map((v) => number(v)),
    ["0", "1.23", "123", "−0.500", "–", "–"],
  );
  assert.equal(number(Number.NEGATIVE_INFINITY), "−∞");
  assert.equal(number(0.0001), "1.0e−4");
});

test("a value that is not 0 never reads as 0, nor a probability below 1 as 1", () => {
  assert.equal(nats(0.0001), "<0.001");
  assert.equal(nats(0), "0.000");
  assert.deepEqual([0, 0.0001, 0.5, 0.9996, 0.998, 1].map(probability), [
    "0.000",
    "<0.001",
    "0.50",
    ">0.999",
    "0.998",
    "1.00",
  ]);
});

test("a percentage has no negative zero", () => {
  assert.equal(percent(-0.001), "0%");
  assert.equal(percent(-0.5), "−50%");
  assert.equal(fixed(-1.5, 1), "−1.5");
});

test("large numbers take a prefix", () => {
  assert.deepEqual([9999, 12_345, 2_270_000, 999e9].map(short), ["9,999", "12.3k", "2.27M", "999G"]);
});

test("times are in the largest sensible unit", () => {
  assert.deepEqual([0.25, 5, 59, 61, 7260, 200_000].map(duration), [
    "250 ms",
    "5.0 s",
    "59 s",
    "1 min 1 s",
    "2 h 1 min",
    "2 d 7 h",
  ]);
  const now = Date.UTC(2026, 0, 2);
  assert.equal(ago(now / SECOND - 5, now), "just now");
  assert.equal(ago("2026-01-01T23:00:00", now), "1 h ago"); // text without a zone is UTC
});

test("one line of a list shows what is invisible and is cut at its limit", () => {
  assert.equal(plain("a\nb\u202e"), "a ⏎ b⟨202E⟩");
  assert.equal(plain("abcdef", 3), "abc…");
});

test("ordinals are English", () => {
  assert.deepEqual(
    [1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111, 1003].map((n) => ordinal(n)),
    ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "101st", "111th", "1,003rd"],
  );
});

test("the teacher wanted what has half of its mass, and leaned to what has less", () => {
  const told = [0.9, 0.5, 0.49].map((p) => leaning(Math.log(p)));
  assert.deepEqual([...told, leaning(null)], ["wanted", "wanted", "leaned to", "leaned to"]);
});

test("ages are by the server's clock, whatever the browser's shows", () => {
  const halfAnHour = Date.now() / SECOND - 1830; // and a margin: headers show whole seconds
  const threeHours = 3 * 3600 * SECOND;
  setClock(new Date(Date.now() + threeHours).toUTCString()); // this browser is behind
  assert.equal(ago(halfAnHour + threeHours / SECOND), "30 min ago");
  setClock(null);
  assert.equal(ago(halfAnHour + threeHours / SECOND), "30 min ago", "an answer without a time says nothing");
  setClock(new Date(Date.now() - 3 * SECOND).toUTCString());
  assert.equal(ago(halfAnHour), "30 min ago", "seconds are the way of an answer");
});
