import assert from "node:assert/strict";
import { test } from "node:test";
import { changedPaths } from "../../app/static/new/changes.js";
import {
  assign,
  fieldsOf,
  flatten,
  formOf,
  jsonProblem,
  readValue,
  showValue,
  titleOf,
  valueAt,
} from "../../app/static/new/fields.js";
import { changeOf } from "../../app/static/runs/editor.js";

const schema = {
  properties: {
    steps: { type: "integer", minimum: 1, description: "Number of steps." },
    student: { $ref: "#/$defs/Student" },
    lora: { anyOf: [{ $ref: "#/$defs/Lora" }, { type: "null" }] },
  },
  $defs: {
    Student: { properties: { model: { type: "string" }, dtype: { enum: ["auto", "float32"] } } },
    Lora: { properties: { rank: { type: "integer", default: 16 } } },
  },
};
const defaults = { steps: 100, student: { model: "m", dtype: "auto" }, lora: null };

test("a schema's fields in order, references followed; a section that may be off has a switch", () => {
  const fields = fieldsOf(schema, defaults);
  assert.deepEqual(
    fields.map(({ path, kind, standard }) => [path, kind, standard]),
    [
      ["steps", "integer", 100],
      ["student.model", "text", "m"],
      ["student.dtype", "choice", "auto"],
      ["lora", "switch", null],
      ["lora.rank", "integer", 16],
    ],
  );
  assert.deepEqual([fields[0].group, fields[1].group], ["general", "student"]);
});

test("titles are words; those of the field keep their writing", () => {
  assert.equal(titleOf("sampling.max_new_tokens"), "Max new tokens");
  assert.equal(titleOf("student.dtype"), "Data type");
  assert.equal(titleOf("teacher.model"), "Teacher");
});

test("a field's text is read by its kind; what is not valid stays text for the check to name", () => {
  const field = (kind, nullable = false) => ({ kind, nullable });
  assert.equal(readValue(field("integer"), " 12 "), 12);
  assert.equal(readValue(field("number"), "1e-3"), 0.001);
  assert.equal(readValue(field("integer"), "many"), "many");
  assert.equal(readValue(field("text", true), " "), null);
  assert.deepEqual(readValue(field("list"), "1, x"), [1, "x"]);
  assert.equal(readValue(field("words"), "all-linear"), "all-linear");
  assert.deepEqual(readValue(field("json"), '{"a": 1}'), { a: 1 });
  assert.equal(readValue(field("json"), "{"), "{");
});

test("what is shown reads back as the same value", () => {
  for (const [kind, value] of [
    ["integer", 3],
    ["list", [1, 2]],
    ["json", { a: [1] }],
    ["words", ["q_proj", "v_proj"]],
    ["text", "bundled"],
  ])
    assert.deepEqual(readValue({ kind, nullable: false }, showValue(value)), value, kind);
});

test("values are set and read at dotted paths", () => {
  const config = { lora: null };
  assign(config, "lora.rank", 8);
  assign(config, "student.model", "x");
  assert.deepEqual(config, { lora: { rank: 8 }, student: { model: "x" } });
  assert.equal(valueAt(config, "lora.rank"), 8);
  assert.equal(valueAt(config, "teacher.model"), undefined);
  assert.deepEqual(flatten(config), { lora: true, "lora.rank": 8, student: true, "student.model": "x" });
});

// The form of a run sends only what was typed.
const labelled = { name: "a", notes: "", tags: ["one", "two, three"] };
const typed = { name: "a", notes: "", tags: "one, two, three" };

test("what was not typed is not sent, even a tag with a comma", () => {
  assert.deepEqual(changeOf(labelled, typed), {});
  assert.deepEqual(changeOf(labelled, { ...typed, notes: "n" }), { notes: "n" });
  assert.deepEqual(changeOf(labelled, { ...typed, name: "b" }), { name: "b" });
});

test("tags are added and removed, not set", () => {
  const plain = { ...labelled, tags: ["one", "two"] };
  const change = changeOf(plain, { ...typed, tags: " two,three ,, " });
  assert.deepEqual(change, { add_tags: ["three"], remove_tags: ["one"] });
  assert.deepEqual(changeOf(plain, { ...typed, tags: "" }), { add_tags: [], remove_tags: ["one", "two"] });
});

test("named sections have the fields of one; lists and JSON say their form", () => {
  const suite = {
    properties: { source: { type: "string", default: "bundled" }, count: { type: "integer" } },
  };
  const parts = {
    properties: {
      suites: { type: "object", patternProperties: { "^[a-z]+$": { $ref: "#/$defs/Suite" } } },
      routes: { type: "object", additionalProperties: { $ref: "#/$defs/Suite" } },
      args: { type: "object", additionalProperties: true, examples: [{ a: 1 }] },
      ids: { type: "array", examples: [[1, 2]] },
    },
    $defs: { Suite: suite },
  };
  const [suites, routes, args, ids] = fieldsOf(parts, {});
  assert.deepEqual(
    [suites, routes, args, ids].map((f) => f.kind),
    ["sections", "sections", "json", "list"],
  );
  assert.deepEqual(
    suites.inner?.map(({ path, standard }) => [path, standard]),
    [
      ["source", "bundled"],
      ["count", null],
    ],
  );
  assert.deepEqual(
    [formOf(args), formOf(ids), formOf(suites)],
    ['JSON, such as {"a":1}.', "Separated by commas, such as 1, 2.", ""],
  );
  assert.match(jsonProblem('{"a": '), /^not valid JSON: /);
  assert.equal(jsonProblem(" "), "");
});

test("changed settings, switches included; a section is its settings", () => {
  const base = { a: true, b: { c: 1 }, lora: null };
  assert.deepEqual(changedPaths(base, { a: false, b: { c: 2 }, lora: { rank: 8 } }), [
    "a",
    "b.c",
    "lora.rank",
  ]);
  assert.deepEqual(changedPaths({ lora: { rank: 8 } }, { lora: null }), ["lora", "lora.rank"]);
  assert.deepEqual(changedPaths(base, base), []);
});
