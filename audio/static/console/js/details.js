/** The details of a session: its audio, its metadata, its retention. */

import { client, explain } from "./api.js";
import { may } from "./context.js";
import { button, field, h, icon } from "./elements.js";
import { tell } from "./messages.js";
import * as words from "./words.js";

export class Details {
  /**
   * @param {HTMLElement} element - The card that is filled.
   * @param {(session: object) => void} onChange - Called with the changed session.
   */
  constructor(element, onChange) {
    this.element = element;
    this.onChange = onChange;
    this.isEditing = false;
  }

  update(session) {
    this.session = session;
    if (this.isEditing) return;
    const edit = may("record", session.project) && button("small", { onclick: () => this.#edit() }, icon("edit"), "Edit");
    this.element.replaceChildren(h("header", {}, h("h2", { id: "details-title" }, "Details"), edit), this.#facts());
  }

  #facts() {
    const { session } = this;
    const { recording } = session;
    const rows = [
      ["Started", words.timeElement(session.start_time)],
      ["Ended", session.end_time && words.timeElement(session.end_time)],
      ["Recorded by", session.user_id],
      ["Project", session.project],
      ["Audio", words.audio(session)],
      ["Size", recording.size_bytes ? words.size(recording.size_bytes) : session.byte_count && `${words.size(session.byte_count)} received`],
      ["Chunks", words.count(session.total_chunks, "chunk")],
      ["Kept", this.#kept()],
      ["Session", h("code", {}, session.session_id)],
      ["SHA-256", recording.sha256 && h("code", {}, recording.sha256)],
      ["Restored", session.recovered && { exact: "Complete, from the journals", uncertain: "From the journals. The last chunks may differ.", pending: "Not finished" }[session.recovered]],
    ];
    const metadata = Object.entries(session.metadata).map(([key, value]) => [key, value]);
    return h("dl.facts", {},
      ...[...rows, ...metadata].filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
  }

  #kept() {
    const { legal_hold: hold, retention_days: days } = this.session;
    if (hold) return h("span.pill.warn", {}, icon("lock"), "Under a legal hold");
    if (days === null) return "The setting of the project";
    return days === 0 ? "Forever" : `${words.count(days, "day")} after its end`;
  }

  #edit() {
    this.isEditing = true;
    const { session } = this;
    const rows = h("div.metadata-rows", {}, ...Object.entries(session.metadata).map(([key, value]) => metadataRow(key, value)));
    const add = button("small", { onclick: () => { rows.append(metadataRow()); rows.lastChild.querySelector("input").focus(); } }, icon("plus"), "Add a value");
    const parts = [h("fieldset", {}, h("legend", {}, "Metadata"), rows, add)];
    const isManager = may("manage", session.project);
    if (isManager) parts.push(...keeping(session));
    const form = h("form.details-form", { onsubmit: (event) => { event.preventDefault(); this.#save(form, isManager); } }, ...parts,
      h("div.actions", {}, button("", { onclick: () => this.#close() }, "Cancel"), h("button.primary", {}, "Save")));
    this.element.replaceChildren(h("header", {}, h("h2", { id: "details-title" }, "Details")), form);
    form.querySelector("input, button").focus();
  }

  #close() {
    this.isEditing = false;
    this.update(this.session);
    this.element.querySelector("header button").focus();
  }

  async #save(form, isManager) {
    const typed = {};
    for (const row of form.querySelectorAll(".metadata-row")) {
      const [key, value] = [...row.querySelectorAll("input")].map((input) => input.value.trim());
      if (key) typed[key] = value;
    }
    const gone = Object.keys(this.session.metadata).filter((key) => !(key in typed)).map((key) => [key, null]);
    const changes = { metadata: { ...Object.fromEntries(gone), ...typed } };
    if (isManager) {
      const { kept, days, legal_hold: hold } = form.elements;
      changes.retention_days = { project: null, forever: 0, days: Number(days.value) }[kept.value];
      changes.legal_hold = hold.checked;
    }
    try {
      const session = await client.sessions.update(this.session.session_id, changes);
      this.session = session;
      this.#close();
      this.onChange(session);
    } catch (error) {
      tell(explain(error));
    }
  }
}

function metadataRow(key = "", value = "") {
  const row = h("div.metadata-row", {},
    h("input", { value: key, placeholder: "Key", "aria-label": "Key", maxlength: 255 }),
    h("input", { value, placeholder: "Value", "aria-label": "Value" }),
    button("plain.icon-only.small", { "aria-label": `Remove ${key || "the value"}`, title: "Remove", onclick: () => row.remove() }, icon("cross")));
  return row;
}

/** Return the fields for the retention of a session. */
function keeping({ retention_days: days, legal_hold: hold }) {
  const chosen = days === null ? "project" : days === 0 ? "forever" : "days";
  const options = { project: "The setting of the project", days: "For a number of days after its end", forever: "Forever" };
  const kept = h("select", { name: "kept" }, ...Object.entries(options).map(([value, said]) => h("option", { value, selected: value === chosen }, said)));
  const number = h("input", { name: "days", type: "number", min: 1, max: 36500, value: days || 90 });
  const counted = field("Days", number);
  const show = () => (counted.hidden = kept.value !== "days");
  kept.addEventListener("change", show);
  show();
  const hint = "Nobody can delete the session until the hold is lifted.";
  const check = h("label.check", {}, h("input", { type: "checkbox", name: "legal_hold", checked: hold }), h("span", {}, "Legal hold. ", h("small", {}, hint)));
  return [field("Kept", kept), counted, check];
}
