/** <scribe-leftovers>: recordings that were left behind in this browser, to upload, save or delete. */

import { headers, keepOpen, linkTo, queue } from "./server.js";
import { button } from "./uploads.js";
import { amount, reason } from "./words.js";

export class Leftovers extends HTMLElement {
  #rows = new Map(); // what is shown, by the id of the leftover
  #newer = new AbortController(); // aborted when the list is read anew

  connectedCallback() {
    document.addEventListener("visibilitychange", () => this.refresh());
  }

  /**
   * Show what is there, except for what the page itself goes on with, and again when a page that records is closed or
   * fails. Rows that say how an upload ended stay.
   */
  async refresh(continued = null) {
    this.#newer.abort();
    this.#newer = new AbortController();
    const options = { onChange: () => this.refresh(), signal: this.#newer.signal };
    const found = queue ? await queue.leftovers(options) : [];
    const others = found.filter(({ id }) => id !== continued?.id);
    // Of these nothing but the end of the session is missing. The server ends it by itself if this fails.
    for (const leftover of others.filter(({ pendingChunks }) => !pendingChunks))
      leftover.upload({ headers }).catch(() => leftover.discard());
    const offered = new Map(others.filter(({ pendingChunks }) => pendingChunks).map((each) => [each.id, each]));
    for (const [id, row] of this.#rows) if (!offered.has(id) && row.dataset.state === undefined) this.#remove(id);
    for (const [id, leftover] of offered) if (!this.#rows.has(id)) this.#add(id, this.#row(leftover));
  }

  #add(id, row) {
    this.#rows.set(id, row);
    this.querySelector("ul").append(row);
    this.hidden = false;
  }

  #remove(id) {
    this.#rows.get(id)?.remove();
    this.#rows.delete(id);
    this.hidden = !this.#rows.size;
  }

  #row(leftover) {
    const row = document.createElement("li");
    const title = document.createElement("strong");
    const when = leftover.startedAt.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    title.textContent = leftover.parameters.name ?? `Recording of ${when}`;
    const text = document.createElement("p");
    text.setAttribute("role", "status");
    text.textContent = `${amount(leftover.pendingBytes, leftover.pendingSeconds)} not uploaded, from ${when}.`;
    const actions = document.createElement("div");
    actions.append(
      button("Upload", () => this.#upload(leftover, row, actions, text)),
      button("Save a copy", () => save(leftover)),
      button("Delete", (event) => this.#delete(leftover, event.target)),
    );
    row.append(title, actions, text);
    return row;
  }

  async #upload(leftover, row, actions, text) {
    row.dataset.state = "uploading";
    actions.hidden = true;
    keepOpen(leftover, true);
    text.removeAttribute("data-problem");
    text.textContent = "Uploading.";
    const recorder = leftover.resume({ headers });
    recorder.addEventListener("progress", ({ detail }) => {
      if (detail.pendingChunks) text.textContent = `Uploading. ${amount(detail.pendingBytes)} to go.`;
    });
    try {
      text.replaceChildren("Saved. ", linkTo(await recorder.close(), "Listen"));
    } catch (error) {
      delete row.dataset.state;
      actions.hidden = false;
      text.toggleAttribute("data-problem", true);
      text.textContent = `It is still kept here. ${reason(error)}`;
    } finally {
      keepOpen(leftover, false);
    }
  }

  /** Ask by the button itself, which then says what it does. */
  async #delete(leftover, pressed) {
    if (pressed.dataset.asked === undefined) {
      pressed.dataset.asked = "";
      pressed.textContent = "Delete forever";
      return;
    }
    await leftover.discard();
    this.#remove(leftover.id);
  }
}

async function save(leftover) {
  const blob = await leftover.blob();
  const ending = blob.type === "audio/wav" ? "wav" : (leftover.parameters.format ?? "bin");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `recording-${leftover.startedAt.toISOString().slice(0, 19).replaceAll(":", "-")}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

customElements.define("scribe-leftovers", Leftovers);
