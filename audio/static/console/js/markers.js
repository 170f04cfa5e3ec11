/** The markers of a session: a list to jump to them, name them and delete them. */

import { client, explain } from "./api.js";
import { button, h, icon } from "./elements.js";
import { tell } from "./messages.js";
import { addShortcuts } from "./shortcuts.js";
import { length } from "./words.js";

const LABEL_LENGTH = 255;

export class Markers {
  #sessionId;
  #list;
  // A deleted marker is gone from the page at once, and from the server when it can't be undone any more.
  #leaving = new Map();

  /**
   * @param {HTMLElement} element - The card that is filled.
   * @param {string} sessionId - The session.
   * @param {{player: object, mayChange: boolean}} options - The player to seek in, and whether the reader may change markers.
   */
  constructor(element, sessionId, { player, mayChange }) {
    this.#sessionId = sessionId;
    this.player = player;
    this.mayChange = mayChange;
    this.markers = [];
    this.#list = h("ol.marker-list");
    const add = mayChange && button("small", { onclick: () => this.add() }, icon("flag"), "Add marker");
    element.replaceChildren(h("header", {}, h("h2", { id: "markers-title" }, "Markers"), add), this.#list);
    if (mayChange) addShortcuts("Player", [[["m"], "Add a marker", () => this.add()]]);
    addEventListener("pagehide", () => this.#leaving.forEach((_, id) => this.#deleteNow(id)));
  }

  async load() {
    const found = [];
    for await (const marker of client.markers.list(this.#sessionId)) if (!this.#leaving.has(marker.marker_id)) found.push(marker);
    this.markers = found;
    this.#show();
  }

  async add() {
    const { position, duration } = this.player;
    const label = `Marker ${this.markers.length + 1}`;
    const place = duration ? { position_seconds: Math.round(position * 1000) / 1000 } : {};
    const marker = await client.markers.add(this.#sessionId, { label, ...place }).catch((error) => tell(explain(error)));
    if (!marker?.marker_id) return;
    this.markers.push(marker);
    this.#show();
    this.#edit(marker);
  }

  #show() {
    this.markers.sort((one, other) => (one.position_seconds ?? Infinity) - (other.position_seconds ?? Infinity));
    this.#list.replaceChildren(...this.markers.map((marker) => this.#row(marker)));
    if (!this.markers.length) {
      const hint = this.mayChange ? ["Press “Add marker” or the key ", h("kbd", {}, "m"), " to mark the moment that you hear."] : ["There are no markers."];
      this.#list.replaceChildren(h("li.hint", {}, ...hint));
    }
    this.player.setMarkers(this.markers);
  }

  #row(marker) {
    const { position_seconds: seconds, label } = marker;
    const jump = seconds === null
      ? h("span.later", { title: "Known when the audio before it has been processed" }, "–:––")
      : button("small.plain.jump", { "aria-label": `Jump to ${label} at ${length(seconds)}`, onclick: () => this.player.seek(seconds) }, length(seconds));
    const name = this.mayChange
      ? button("plain.label", { title: "Rename", onclick: () => this.#edit(marker) }, label)
      : h("span.label", {}, label);
    const remove = this.mayChange
      && button("plain.icon-only.small", { "aria-label": `Delete ${label}`, title: "Delete", onclick: () => this.#remove(marker) }, icon("trash"));
    const row = h("li", {}, jump, name, remove);
    row.dataset.id = marker.marker_id;
    return row;
  }

  #rowOf(marker) {
    return this.#list.querySelector(`[data-id="${marker.marker_id}"]`);
  }

  /** Let the reader type a new label: Enter keeps it, Escape does not. */
  #edit(marker) {
    const input = h("input.label", { value: marker.label, maxlength: LABEL_LENGTH, "aria-label": "Label of the marker" });
    let isDone = false;
    const done = async (keeps) => {
      if (isDone) return;
      isDone = true;
      const label = input.value.trim();
      if (keeps && label && label !== marker.label) await this.#rename(marker, label);
      this.#show();
      this.#rowOf(marker)?.querySelector(".label").focus();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") done(true);
      else if (event.key === "Escape") done(false);
    });
    input.addEventListener("blur", () => done(true));
    this.#rowOf(marker).querySelector(".label").replaceWith(input);
    input.select();
  }

  async #rename(marker, label) {
    try {
      Object.assign(marker, await client.markers.update(this.#sessionId, marker.marker_id, { label }));
    } catch (error) {
      tell(explain(error));
    }
  }

  async #remove(marker) {
    const index = this.markers.indexOf(marker);
    this.#leaving.set(marker.marker_id, marker);
    this.markers.splice(index, 1);
    this.#show();
    const undo = () => this.#leaving.delete(marker.marker_id);
    const isUndone = await tell(`“${marker.label}” is deleted.`, { label: "Undo", act: undo });
    if (isUndone) {
      this.markers.push(marker);
      this.#show();
    } else if (this.#leaving.has(marker.marker_id)) await this.#deleteNow(marker.marker_id);
  }

  async #deleteNow(id) {
    this.#leaving.delete(id);
    await client.markers.delete(this.#sessionId, id).catch((error) => tell(explain(error)));
  }
}
