// The fields of a configuration, out of its JSON schema: what each is, how it is typed and read.

/**
 * → [{path, group, title, help, kind, options, nullable, schema, standard}] in the schema's order;
 * of named sections (kind "sections") `inner` has the fields of one.
 * @param {SchemaNode} schema @param {any} [defaults]
 */
export function fieldsOf(schema, defaults = defaultsOf(schema)) {
  /** @type {Field[]} */
  const fields = [];
  walk(schema, schema, defaults, "", fields);
  return fields;
}

/**
 * @param {SchemaNode} root
 * @param {SchemaNode} node
 * @param {any} defaults
 * @param {string} prefix
 * @param {Field[]} fields
 */
function walk(root, node, defaults, prefix, fields) {
  for (const [name, raw] of Object.entries(node.properties ?? {})) {
    const path = prefix + name;
    const { schema, nullable } = settle(root, raw);
    if (schema.properties) {
      if (nullable) fields.push(switchOf(path, raw, schema));
      walk(root, schema, defaults?.[name] ?? defaultsOf(schema), `${path}.`, fields);
    } else {
      const field = fieldOf(path, raw, schema, nullable, defaults?.[name]);
      const part = partOf(root, schema);
      if (part) Object.assign(field, { kind: "sections", inner: fieldsOf({ ...part, $defs: root.$defs }) });
      fields.push(field);
    }
  }
}

/** @param {SchemaNode} root @param {SchemaNode} raw */
function settle(root, raw) {
  let schema = follow(root, raw);
  let nullable = false;
  if (schema.anyOf) {
    const { anyOf } = schema;
    nullable = anyOf.some((one) => one.type === "null");
    const rest = anyOf.filter((one) => one.type !== "null").map((one) => follow(root, one));
    schema = rest.length === 1 ? rest[0] : { ...schema, anyOf: rest };
  }
  return { schema, nullable };
}

/** The section that each name of an object stands for, if it does. @param {SchemaNode} root @param {SchemaNode} schema */
function partOf(root, schema) {
  const [pattern] = Object.values(schema.patternProperties ?? {});
  const raw = pattern ?? schema.additionalProperties;
  const part = raw && typeof raw === "object" ? follow(root, raw) : null;
  return part?.properties ? part : null;
}

/** The schema that a reference means. @param {SchemaNode} root @param {SchemaNode} schema @returns {SchemaNode} */
function follow(root, schema) {
  if (schema.$ref)
    return schema.$ref
      .split("/")
      .slice(1)
      .reduce((/** @type {any} */ node, key) => node[key], root);
  if (schema.allOf?.length === 1) return follow(root, schema.allOf[0]);
  return schema;
}

/** @param {SchemaNode} schema */
function defaultsOf(schema) {
  return Object.fromEntries(Object.entries(schema.properties ?? {}).map(([k, s]) => [k, s.default ?? null]));
}

/**
 * @param {string} path
 * @param {SchemaNode} raw
 * @param {SchemaNode} schema
 * @param {boolean} nullable
 * @param {unknown} standard
 */
function fieldOf(path, raw, schema, nullable, standard) {
  return {
    path,
    group: groupOf(path),
    title: titleOf(path),
    help: raw.description ?? schema.description ?? "",
    kind: kindOf(schema),
    options: schema.enum ?? null,
    nullable,
    schema,
    standard: standard ?? null,
    choices: raw.choices ?? null,
    onlyFor: raw.only_for ?? null,
    example: (raw.examples ?? schema.examples)?.[0] ?? null,
  };
}

/** @param {string} path @param {SchemaNode} raw @param {SchemaNode} schema */
function switchOf(path, raw, schema) {
  return {
    path,
    group: groupOf(`${path}.x`),
    title: titleOf(path),
    help: raw.description ?? "",
    kind: "switch",
    options: null,
    nullable: true,
    schema,
    standard: null,
  };
}

/** @param {SchemaNode} schema */
function kindOf(schema) {
  if (schema.enum) return "choice";
  if (schema.type === "boolean") return "boolean";
  if (schema.type === "integer" || schema.type === "number") return schema.type;
  if (schema.type === "array") return "list";
  if (schema.anyOf?.some((s) => s.type === "array")) return "words";
  if (schema.type === "object") return "json";
  return "text";
}

/** @param {string} path */
function groupOf(path) {
  const parts = path.split(".");
  return parts.length === 1 ? "general" : parts[0];
}

/** @type {Record<string, string>} */
const WORDS = {
  cpus: "CPUs",
  dtype: "data type",
  gb: "GB",
  ids: "IDs",
  json: "JSON",
  kl: "KL",
  lm: "LM",
  mb: "MB",
  url: "URL",
};
/** @type {Record<string, string>} */
const TITLES = {
  "student.model": "Student",
  "teacher.model": "Teacher",
  "prompts.source": "Prompts",
  "objective.name": "Objective",
  "student.lora": "Train a LoRA adapter",
};

/** @param {string} path */
export function titleOf(path) {
  if (TITLES[path]) return TITLES[path];
  const words = path
    .split(".")
    .slice(-1)[0]
    .split("_")
    .map((word) => WORDS[word] ?? word)
    .join(" ");
  return words[0].toUpperCase() + words.slice(1);
}

/**
 * The text in a field as a value; text that is no number stays text, so that the check names it.
 * @param {Field} field @param {string} text
 */
export function readValue(field, text) {
  const trimmed = text.trim();
  if (trimmed === "" && field.nullable) return null;
  if (field.kind === "integer" || field.kind === "number") return numberOr(trimmed);
  if (field.kind === "list") return splitWords(trimmed).map(numberOr);
  if (field.kind === "words") return trimmed === "all-linear" ? trimmed : splitWords(trimmed);
  if (field.kind === "json") return jsonOr(trimmed);
  return field.kind === "choice" ? text : trimmed;
}

/** @param {string} text */
function numberOr(text) {
  return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}

/** @param {string} text */
function jsonOr(text) {
  if (text === "") return null;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** @param {string} text */
function splitWords(text) {
  return text
    .split(",")
    .map((t) => t.trim())
    .filter(Boolean);
}

/** What is wrong with the text of a field of JSON, "" for nothing. @param {string} text */
export function jsonProblem(text) {
  if (!text.trim()) return "";
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return `not valid JSON: ${error.message}`;
  }
}

/** How a list or a mapping is typed, with an example. @param {Field} field */
export function formOf(field) {
  const example = field.example === null || field.example === undefined ? "" : showValue(field.example);
  const such = example ? `, such as ${example}` : "";
  if (field.kind === "list") return `Separated by commas${such}.`;
  if (field.kind === "words") return `all-linear, or names separated by commas${such}.`;
  if (field.kind === "json") return `JSON${such}.`;
  return "";
}

/** @param {unknown} value */
export function showValue(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.join(", ");
  if (typeof value === "object") return Object.keys(value).length ? JSON.stringify(value) : "";
  return String(value);
}

/** @param {Config} config */
export function flatten(config, prefix = "") {
  /** @type {Config} */
  const flat = {};
  for (const [name, value] of Object.entries(config ?? {})) {
    const path = prefix + name;
    if (value !== null && typeof value === "object" && !Array.isArray(value))
      Object.assign(flat, { [path]: true }, flatten(value, `${path}.`));
    else flat[path] = value;
  }
  return flat;
}

/**
 * Sets a value at a dotted path, making the objects on the way.
 * @param {Config} config @param {string} path @param {unknown} value
 */
export function assign(config, path, value) {
  const parts = path.split(".");
  let node = config;
  for (const part of parts.slice(0, -1)) {
    if (node[part] === null || typeof node[part] !== "object") node[part] = {};
    node = node[part];
  }
  node[parts[parts.length - 1]] = value;
}

/** @param {Config} config @param {string} path */
export function valueAt(config, path) {
  return path
    .split(".")
    .reduce((node, part) => (node === null || node === undefined ? node : node[part]), config);
}
