// The chat in the address, where it is short, and in the session, tokens included.
import { query } from "../lib/api.js";

const LONGEST = 1500; // characters of a chat that goes into the address
const KEY = "opd-chat";

/** Only the texts, as the address holds them. @param {ChatTurn[]} turns */
function textsOf(turns) {
  return JSON.stringify(
    turns.map((t) => [t.user, t.replies.student?.text ?? null, t.replies.teacher?.text ?? null]),
  );
}

/** For the address; null where there is nothing, or too much. @param {ChatTurn[]} turns */
export function forAddress(turns) {
  const texts = textsOf(turns);
  return turns.length && texts.length <= LONGEST ? texts : null;
}

/** Keeps the chat for a reload. @param {string} source @param {ChatTurn[]} turns */
export function save(source, turns) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ source, turns }));
  } catch {
    sessionStorage.removeItem(KEY); // too long to be kept
  }
}

/** The chat of the session, where it is that of the address; else the address's texts. @param {string} source */
export function restored(source) {
  const address = query().get("said");
  const session = parsed(sessionStorage.getItem(KEY));
  const turns = session?.source === source ? session.turns : null;
  if (Array.isArray(turns) && (!address || textsOf(turns) === address)) return turns;
  const texts = address ? parsed(address) : null;
  if (!Array.isArray(texts)) return [];
  return texts.filter((t) => Array.isArray(t) && typeof t[0] === "string").map(turnOf);
}

/** A turn whose tokens are not known any more: its texts, untinted. @param {unknown[]} texts @returns {ChatTurn} */
function turnOf([user, student, teacher]) {
  /** @type {ChatTurn} */
  const turn = { user: String(user), replies: {} };
  if (typeof student === "string") turn.replies.student = untinted("student", student);
  if (typeof teacher === "string") turn.replies.teacher = untinted("teacher", teacher);
  return turn;
}

/** @param {Speaker} author @param {string} text @returns {Reply} */
function untinted(author, text) {
  return {
    author,
    text,
    ids: [0],
    texts: { 0: { t: text } },
    student_logprobs: [null],
    teacher_logprobs: [null],
    reverse_kl: [null],
    wanted: [null],
    finish_reason: "stop",
    bare: true,
  };
}

/** JSON, or null where it is none. @param {string | null} text @returns {any} */
function parsed(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}
