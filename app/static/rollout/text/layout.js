// Breaks a sequence of drawn tokens into lines of at most `columns` character cells.

/** @typedef {ReturnType<typeof layOut>} Layout */

/**
 * A piece is a token, or the part of it that stands on one line. Token numbers: the prompt's
 * 0 … P−1, then the completion's; a line starts before those that `breaks` marks.
 * → {token, text, lineStart, lineOf, lines, promptLines}
 * @param {DrawnCell[]} promptCells
 * @param {DrawnCell[]} completionCells
 * @param {number} columns
 * @param {ArrayLike<number>} breaks
 */
export function layOut(promptCells, completionCells, columns, breaks) {
  const flow = new Flow(columns, promptCells.length + completionCells.length, breaks);
  flow.add(promptCells, 0);
  flow.endLine();
  const promptLines = flow.starts.length - (flow.empty() ? 1 : 0);
  flow.add(completionCells, promptCells.length);
  return flow.result(promptLines);
}

/**
 * The completion's token on the line after (`step` 1) or before (−1) that starts nearest to the same
 * column as token `index`, itself at either end. `cells` are the completion's.
 * @param {TextLayout} layout
 * @param {DrawnCell[]} cells
 * @param {number} prompt
 * @param {number} index
 * @param {number} step
 */
export function tokenAcross(layout, cells, prompt, index, step) {
  const line = layout.lineOf[index + prompt];
  const next = Math.max(layout.promptLines, Math.min(layout.lines - 1, line + step));
  const column = columnOf(layout, cells, prompt, line, index + prompt);
  let nearest = -1;
  for (let p = layout.lineStart[next]; p < layout.lineStart[next + 1]; p++) {
    const token = layout.token[p];
    if (nearest < 0 || columnOf(layout, cells, prompt, next, token) <= column) nearest = token;
  }
  return nearest - prompt;
}

/**
 * How many character cells of its line stand before a token.
 * @param {TextLayout} layout
 * @param {DrawnCell[]} cells
 * @param {number} prompt
 * @param {number} line
 * @param {number} token
 */
function columnOf(layout, cells, prompt, line, token) {
  let column = 0;
  for (let p = layout.lineStart[line]; p < layout.lineStart[line + 1] && layout.token[p] !== token; p++) {
    column += cells[layout.token[p] - prompt].widths[0];
  }
  return column;
}

class Flow {
  /** @param {number} columns @param {number} tokens @param {ArrayLike<number>} breaks */
  constructor(columns, tokens, breaks) {
    this.columns = columns;
    this.breaks = breaks;
    /** @type {number[]} */
    this.token = [];
    /** @type {Map<number, string>} */
    this.text = new Map(); // only of pieces that are not their whole token
    this.starts = [0];
    this.lineOf = new Int32Array(tokens);
    this.column = 0;
    this.breakAt = -1; // the newest piece of this line before which it may break
    this.breakColumn = 0;
    this.trailing = true;
  }

  empty() {
    return this.starts.at(-1) === this.token.length;
  }

  /** @param {DrawnCell[]} cells @param {number} offset */
  add(cells, offset) {
    for (let i = 0; i < cells.length; i++) {
      const cell = cells[i];
      if (this.breaks[offset + i]) this.endLine();
      const whole = cell.lines.length === 1 && cell.widths[0] <= this.columns;
      if (whole) this.put(offset + i, cell.widths[0], cell.lead, null);
      else this.putLong(offset + i, cell);
      if (cell.newline) this.endLine();
      this.trailing = cell.trail;
    }
  }

  /** @param {number} token @param {DrawnCell} cell */
  putLong(token, cell) {
    cell.lines.forEach((line, k) => {
      if (k > 0) this.endLine();
      for (const [text, width] of chunks(line, cell.widths[k], this.columns)) {
        this.put(token, width, cell.lead, text);
      }
    });
  }

  /** @param {number} token @param {number} width @param {boolean} lead @param {string | null} text */
  put(token, width, lead, text) {
    if ((lead || this.trailing) && !this.empty()) {
      this.breakAt = this.token.length;
      this.breakColumn = this.column;
    }
    if (this.column + width > this.columns && !this.empty()) this.wrap();
    if (text !== null) this.text.set(this.token.length, text);
    this.token.push(token);
    this.column += width;
  }

  /** Starts a new line at the newest place for a break, if it is in the line's second half. */
  wrap() {
    if (this.breakAt > (this.starts.at(-1) ?? 0) && this.breakColumn > this.columns / 2) {
      this.starts.push(this.breakAt);
      this.column -= this.breakColumn;
    } else {
      this.starts.push(this.token.length);
      this.column = 0;
    }
    this.breakAt = -1;
  }

  endLine() {
    if (this.empty()) return;
    this.starts.push(this.token.length);
    this.column = 0;
    this.breakAt = -1;
    this.trailing = true;
  }

  /** @param {number} promptLines */
  result(promptLines) {
    if (this.empty() && this.starts.length > 1) this.starts.pop();
    const lines = this.starts.length;
    const lineStart = Int32Array.from([...this.starts, this.token.length]);
    const token = Int32Array.from(this.token);
    for (let line = lines - 1; line >= 0; line--) {
      for (let p = lineStart[line]; p < lineStart[line + 1]; p++) this.lineOf[token[p]] = line;
    }
    return { token, text: this.text, lineStart, lineOf: this.lineOf, lines, promptLines };
  }
}

/** @param {string} line @param {number} width @param {number} columns @returns {[string, number][]} */
function chunks(line, width, columns) {
  if (width <= columns) return [[line, width]];
  const characters = [...line];
  const size = Math.max(1, Math.floor(columns / 2)); // a character takes two cells at most
  /** @type {[string, number][]} */
  const result = [];
  for (let i = 0; i < characters.length; i += size) {
    const text = characters.slice(i, i + size).join("");
    result.push([text, width > characters.length ? size * 2 : [...text].length]);
  }
  return result;
}
