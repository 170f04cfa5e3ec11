/** <scribe-uploads>: files that are dropped or chosen, streamed as sessions. */

import { upload } from "../../../client/sercuescribe.js";
import { headers, keepOpen, linkTo } from "./server.js";
import { reason, size } from "./words.js";

export class Uploads extends HTMLElement {
  #waiting = [];
  #isUploading = false;

  connectedCallback() {
    const input = this.querySelector("input");
    input.addEventListener("change", () => {
      this.add(input.files);
      input.value = "";
    });
    if (input.disabled) return;
    addEventListener("dragover", (event) => this.#over(event, true));
    addEventListener("dragleave", (event) => this.#over(event, false));
    addEventListener("drop", (event) => {
      this.#over(event, false);
      this.add(event.dataTransfer.files);
    });
  }

  /** Upload files, one after the other. */
  add(files) {
    for (const file of files) this.#waiting.push(this.#row(file));
    this.#next();
  }

  #over(event, isOver) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    this.toggleAttribute("data-over", isOver);
  }

  #row(file) {
    const row = document.createElement("li");
    const name = Object.assign(document.createElement("strong"), { textContent: file.name });
    const actions = document.createElement("div");
    const progress = Object.assign(document.createElement("progress"), { max: 1, value: 0 });
    progress.setAttribute("aria-label", `Upload of ${file.name}`);
    const text = Object.assign(document.createElement("p"), { textContent: `Waiting. ${size(file.size)}` });
    const stop = new AbortController();
    actions.append(button("Cancel", () => stop.abort()));
    row.append(name, actions, progress, text);
    this.querySelector("ul").append(row);
    return { file, row, actions, progress, text, stop };
  }

  async #next() {
    if (this.#isUploading) return;
    this.#isUploading = true;
    keepOpen(this, true);
    for (let item = this.#waiting.shift(); item; item = this.#waiting.shift()) await this.#upload(item);
    this.#isUploading = false;
    keepOpen(this, false);
  }

  async #upload({ file, row, actions, progress, text, stop }) {
    const project = document.querySelector("scribe-recorder .project")?.value;
    text.textContent = `Uploading ${size(file.size)}.`;
    const onProgress = (part) => {
      progress.value = part;
      if (part === 1) text.textContent = "Uploaded. The server is making the recording.";
    };
    try {
      const parameters = project ? { project } : {};
      const session = await upload(file, { headers, parameters, signal: stop.signal, onProgress });
      text.replaceChildren("Saved. ", linkTo(session, "Listen"));
      actions.replaceChildren();
      progress.remove();
    } catch (error) {
      if (stop.signal.aborted) return row.remove();
      text.toggleAttribute("data-problem", true);
      text.textContent = `${file.name} was not recorded. ${reason(error)}`;
      progress.remove();
      const retry = () => {
        row.remove();
        this.add([file]);
      };
      actions.replaceChildren(button("Try again", retry), button("Remove", () => row.remove()));
    }
  }
}

export function button(text, act) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  made.addEventListener("click", act);
  return made;
}

customElements.define("scribe-uploads", Uploads);
