// Reads the binary answer of /rollouts/ID/tokens: a JSON header, then packed arrays.

/** @type {Record<string, Float32ArrayConstructor | Uint8ArrayConstructor | Uint16ArrayConstructor | Uint32ArrayConstructor>} */
const TYPES = { f4: Float32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };

/**
 * Offsets count from the end of the header.
 * @param {ArrayBuffer} buffer
 * @returns {{n: number, columns: Columns, texts: TokenTexts, ownTexts: {prompt?: string[], completion?: string[]}}}
 */
export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const start = 4 + length;
  const columns = /** @type {Columns} */ ({});
  for (const column of header.columns) columns[column.name] = arrayOf(buffer, start, column);
  return { n: header.n, columns, texts: header.texts, ownTexts: header.own_texts ?? {} };
}

/** @param {ArrayBuffer} buffer @param {number} start @param {PayloadColumn} payloadColumn */
function arrayOf(buffer, start, { name, dtype, offset, length }) {
  const Type = TYPES[dtype.replace(/^[<|]/, "")];
  if (!Type || length % Type.BYTES_PER_ELEMENT) throw new Error(`column ${name} cannot be read (${dtype})`);
  return new Type(buffer.slice(start + offset, start + offset + length));
}
