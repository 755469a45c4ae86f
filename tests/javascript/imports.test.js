import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const STATIC = fileURLToPath(new URL("../../app/static", import.meta.url));
const SPECIFIER = /\b(?:from|import)\s*\(?\s*"(\.[^"]+)"/g;
const NAMED = /\bimport \{([^}]+)\} from "(\.[^"]+)"/g;
const TYPE = /\bimport\("(\.[^"]+)"\)\.(\w+)/g;
const EXPORTED = /^export (?:async )?(?:function|class|const|let) (\w+)/gm;
// Called by lib/main.js with the page's module, whose name it learns from the server.
const ENTRY = new Set(["mount", "preload"]);
// Stands for lib/api.js in a report, with the same exports.
const STAND_IN = /report\/api\.js$/;

const paths = readdirSync(STATIC, { recursive: true })
  .filter((path) => path.endsWith(".js"))
  .map((path) => join(STATIC, path));
const sources = new Map(paths.map((path) => [path, readFileSync(path, "utf8")]));
const importsOf = (path) =>
  [...sources.get(path).matchAll(SPECIFIER)].map((match) => join(dirname(path), match[1]));

test("every import is of a script that is there", () => {
  for (const path of paths) for (const target of importsOf(path)) assert.ok(sources.has(target), target);
});

test("no script imports itself, by however many others", () => {
  const done = new Set();
  const visit = (path, trail) => {
    assert.ok(!trail.includes(path), [...trail, path].map((p) => relative(STATIC, p)).join(" → "));
    if (done.has(path)) return;
    for (const target of importsOf(path)) visit(target, [...trail, path]);
    done.add(path);
  };
  for (const path of paths) visit(path, []);
});

test("what all pages share imports no page", () => {
  const lib = join(STATIC, "lib");
  /** @param {string} path */
  const isShared = (path) => !relative(lib, path).startsWith("..");
  const shared = paths.filter(isShared);
  assert.ok(shared.length);
  assert.deepEqual(
    shared.flatMap(importsOf).filter((target) => !isShared(target)),
    [],
  );
});

test("every exported name is imported by another script or by a test", () => {
  const tests = readdirSync(import.meta.dirname).filter((name) => /\.(test\.js|d\.ts)$/.test(name));
  const files = [...paths, ...tests.map((name) => join(import.meta.dirname, name))];
  const imported = new Set();
  for (const path of files) {
    for (const [, names, target] of readFileSync(path, "utf8").matchAll(NAMED)) {
      for (const name of names.split(",")) imported.add(`${join(dirname(path), target)} ${name.trim()}`);
    }
    for (const [, target, name] of readFileSync(path, "utf8").matchAll(TYPE))
      imported.add(`${join(dirname(path), target)} ${name}`);
  }
  const unused = paths.flatMap((path) =>
    [...sources.get(path).matchAll(EXPORTED)]
      .filter(([, name]) => !ENTRY.has(name) && !imported.has(`${path} ${name}`) && !STAND_IN.test(path))
      .map(([, name]) => `${relative(STATIC, path)}: ${name}`),
  );
  assert.deepEqual(unused, []);
});
