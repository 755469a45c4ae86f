// The fields of a configuration, out of its JSON schema: what each is, how it is typed and read.

/** → [{path, group, title, help, kind, options, nullable, schema, standard}] in the schema's order. */
export function fieldsOf(schema, defaults) {
  const found = [];
  walk(schema, schema, defaults, "", found);
  return found;
}

function walk(root, node, defaults, prefix, found) {
  for (const [name, raw] of Object.entries(node.properties ?? {})) {
    const path = prefix + name;
    const { schema, nullable } = settle(root, raw);
    if (schema.properties) {
      if (nullable) found.push(switchOf(path, raw, schema));
      walk(root, schema, defaults?.[name] ?? defaultsOf(schema), `${path}.`, found);
    } else {
      found.push(fieldOf(path, raw, schema, nullable, defaults?.[name]));
    }
  }
}

function settle(root, raw) {
  let schema = follow(root, raw);
  let nullable = false;
  if (schema.anyOf) {
    nullable = schema.anyOf.some((s) => s.type === "null");
    const rest = schema.anyOf.filter((s) => s.type !== "null").map((s) => follow(root, s));
    schema = rest.length === 1 ? rest[0] : { ...schema, anyOf: rest };
  }
  return { schema, nullable };
}

function follow(root, schema) {
  if (schema.$ref)
    return schema.$ref
      .split("/")
      .slice(1)
      .reduce((at, key) => at[key], root);
  if (schema.allOf?.length === 1) return follow(root, schema.allOf[0]);
  return schema;
}

function defaultsOf(schema) {
  return Object.fromEntries(Object.entries(schema.properties).map(([k, s]) => [k, s.default ?? null]));
}

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
  };
}

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

function kindOf(schema) {
  if (schema.enum) return "choice";
  if (schema.type === "boolean") return "boolean";
  if (schema.type === "integer" || schema.type === "number") return schema.type;
  if (schema.type === "array") return "list";
  if (schema.anyOf?.some((s) => s.type === "array")) return "words";
  if (schema.type === "object") return "json";
  return "text";
}

function groupOf(path) {
  const parts = path.split(".");
  return parts.length === 1 ? "general" : parts[0];
}

const WORDS = {
  dtype: "data type",
  ids: "IDs",
  json: "JSON",
  kl: "KL",
  lm: "LM",
  mb: "MB",
  url: "URL",
};
const TITLES = {
  "student.model": "Student",
  "teacher.model": "Teacher",
  "prompts.source": "Prompts",
  "objective.name": "Objective",
  "student.lora": "Train a LoRA adapter",
};

export function titleOf(path) {
  if (TITLES[path]) return TITLES[path];
  const words = path
    .split(".")
    .at(-1)
    .split("_")
    .map((word) => WORDS[word] ?? word)
    .join(" ");
  return words[0].toUpperCase() + words.slice(1);
}

/** The text in a field as a value; text that is no number stays text, so that the check names it. */
export function readValue(field, text) {
  const trimmed = text.trim();
  if (trimmed === "" && field.nullable) return null;
  if (field.kind === "integer" || field.kind === "number") return numberOr(trimmed);
  if (field.kind === "list") return splitWords(trimmed).map(numberOr);
  if (field.kind === "words") return trimmed === "all-linear" ? trimmed : splitWords(trimmed);
  if (field.kind === "json") return jsonOr(trimmed);
  return field.kind === "choice" ? text : trimmed;
}

function numberOr(text) {
  return text !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}

function jsonOr(text) {
  if (text === "") return {};
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function splitWords(text) {
  return text
    .split(",")
    .map((t) => t.trim())
    .filter(Boolean);
}

export function showValue(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.join(", ");
  if (typeof value === "object") return Object.keys(value).length ? JSON.stringify(value) : "";
  return String(value);
}

export function flatten(config, prefix = "") {
  const flat = {};
  for (const [name, value] of Object.entries(config ?? {})) {
    const path = prefix + name;
    if (value !== null && typeof value === "object" && !Array.isArray(value))
      Object.assign(flat, { [path]: true }, flatten(value, `${path}.`));
    else flat[path] = value;
  }
  return flat;
}

/** Sets a value at a dotted path, making the objects on the way. */
export function assign(config, path, value) {
  const parts = path.split(".");
  let node = config;
  for (const part of parts.slice(0, -1)) {
    if (node[part] === null || typeof node[part] !== "object") node[part] = {};
    node = node[part];
  }
  node[parts.at(-1)] = value;
}

export function valueAt(config, path) {
  return path
    .split(".")
    .reduce((node, part) => (node === null || node === undefined ? node : node[part]), config);
}
