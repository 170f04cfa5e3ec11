/** <scribe-leftovers>: recordings that were left behind in this browser, to upload, save or delete. */

import { headers, keepOpen, linkTo, queue } from "./server.js";
import { button } from "./uploads.js";
import { amount, reason } from "./words.js";

export class Leftovers extends HTMLElement {
  /** Show what is there, except for what the page itself goes on with. */
  async refresh(continued = null) {
    const found = queue ? await queue.leftovers() : [];
    const others = found.filter(({ id }) => id !== continued?.id);
    // Of these nothing but the end of the session is missing.
    for (const leftover of others.filter(({ pendingChunks }) => !pendingChunks))
      leftover.upload({ headers }).catch(() => undefined);
    const rows = others.filter(({ pendingChunks }) => pendingChunks).map((leftover) => this.#row(leftover));
    this.querySelector("ul").replaceChildren(...rows);
    this.hidden = !rows.length;
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
      button("Delete", (event) => this.#delete(leftover, row, event.target)),
    );
    row.append(title, actions, text);
    return row;
  }

  async #upload(leftover, row, actions, text) {
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
      actions.hidden = false;
      text.toggleAttribute("data-problem", true);
      text.textContent = `It is still kept here. ${reason(error)}`;
    } finally {
      keepOpen(leftover, false);
    }
  }

  /** Ask by the button itself, which then says what it does. */
  async #delete(leftover, row, pressed) {
    if (pressed.dataset.asked === undefined) {
      pressed.dataset.asked = "";
      pressed.textContent = "Delete for ever";
      return;
    }
    await leftover.discard();
    row.remove();
    this.hidden = !this.querySelector("li");
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
