// Sends a data file to the server, and says what came of it.
import { get, sendFile } from "../../lib/api.js";
import { bytes, integer, plain } from "../../lib/format.js";

/**
 * `chosen` gets the path of what was kept and a sentence about it; `tell` what happens meanwhile.
 * @param {File} file @param {(value: string, said: string) => unknown} chosen
 * @param {(said: string, bad?: boolean) => unknown} tell @param {AbortSignal} [signal]
 */
export async function uploadFile(file, chosen, tell, signal) {
  const name = plain(file.name, 100);
  try {
    const { upload_bytes } = await get("sources/data");
    if (!upload_bytes) return tell("This server takes no uploads (opd serve --upload-limit).", true);
    if (file.size > upload_bytes) {
      const limit = `the limit is ${bytes(upload_bytes)} (opd serve --upload-limit)`;
      return tell(`${name} has ${bytes(file.size)}; ${limit}.`, true);
    }
    tell(`Uploading ${name}, ${bytes(file.size)} …`);
    /** @type {UploadAnswer} */
    const answer = await sendFile("uploads", { name: file.name }, file, signal);
    chosen(answer.value, said(answer));
  } catch (error) {
    if (error.name === "AbortError") return;
    const where = error.where && error.where !== "name" ? `${error.where}: ` : "";
    tell(plain(`Not uploaded. ${where}${error.message}`, 600), true);
  }
}

/** @param {UploadAnswer} answer */
function said({ rows, form, known, note, name }) {
  const kept = known ? "was uploaded before" : "uploaded";
  const read = `${integer(rows)} ${rows === 1 ? "row" : "rows"}${form ? `, read as ${form}` : ""}`;
  return plain(`${name} ${kept}: ${read}.${note ? ` ${note}` : ""}`, 600);
}

/**
 * Calls `take` with a file that is dropped on the element.
 * @param {HTMLElement} element @param {(file: File) => unknown} take
 */
export function dropped(element, take) {
  /** @param {boolean} over */
  const show = (over) => element.classList.toggle("drop", over);
  element.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    show(true);
  });
  element.addEventListener("dragleave", () => show(false));
  element.addEventListener("drop", (event) => {
    show(false);
    const file = event.dataTransfer?.files[0];
    if (!file) return;
    event.preventDefault();
    take(file);
  });
}
