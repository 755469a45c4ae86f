import assert from "node:assert/strict";
import { test } from "node:test";

Object.defineProperty(globalThis, "navigator", { value: { cookieEnabled: true }, configurable: true });
const { get } = await import("../../app/static/lib/api.js");

/** What a page is told of such an answer. */
async function told(status, body) {
  globalThis.fetch = async () =>
    new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json" } });
  const error = await get("runs").catch((raised) => raised);
  return `${error.message}. ${error.hint}`;
}

test("who has no access is told once to open the link", async () => {
  const error = "a token is needed: open the link that `opd serve` printed, or send the header";
  const text = await told(401, { error });
  assert.match(text, /^a token is needed\. Open the link/);
  assert.equal(text.match(/open the link/gi)?.length, 1);
});

test("other refusals keep all their words", async () => {
  const error = "run-a: is running: cancel it first";
  assert.match(await told(409, { error }), /^run-a: is running: cancel it first\./);
});
