// Reads the binary answer of /rollouts/ID/tokens: a JSON header, then packed arrays.

const TYPES = {
  f4: [Float32Array, 4],
  f8: [Float64Array, 8],
  u1: [Uint8Array, 1],
  u2: [Uint16Array, 2],
  u4: [Uint32Array, 4],
  i1: [Int8Array, 1],
  i2: [Int16Array, 2],
  i4: [Int32Array, 4],
};
const NAMES = {
  float32: "f4",
  float64: "f8",
  uint8: "u1",
  uint16: "u2",
  uint32: "u4",
  int8: "i1",
  int16: "i2",
  int32: "i4",
  bool: "u1",
};

/** → {n, columns: {name: typed array}, texts: {id: {t, s, b}}, header}; offsets count from the end of the header. */
export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const start = 4 + length;
  const columns = {};
  for (const column of header.columns) columns[column.name] = array(buffer, start, column);
  return { n: header.n, columns, prompt: promptOf(header, columns), texts: header.texts, header };
}

function array(buffer, start, column) {
  const key = NAMES[column.dtype] ?? column.dtype.replace(/^[<|>=]/, "");
  const [Type, size] = TYPES[key];
  const bytes = buffer.slice(start + column.offset, start + column.offset + column.length);
  if (bytes.byteLength % size) throw new Error(`column ${column.name} is not whole`);
  return new Type(bytes);
}

function promptOf(header, columns) {
  return columns.prompt_ids ?? columns.prompt ?? Int32Array.from(header.prompt ?? []);
}
