/** The page of a session: listen, mark, rename, download, close, delete. It updates itself. */

import { Activity } from "./activity.js";
import { client, explain } from "./api.js";
import { context, may, url } from "./context.js";
import { Details } from "./details.js";
import { downloadMenu } from "./downloads.js";
import { button, h, icon } from "./elements.js";
import { Markers } from "./markers.js";
import { ask, tell } from "./messages.js";
import { Player } from "./player.js";
import { addShortcuts } from "./shortcuts.js";
import * as words from "./words.js";

const NAME_LENGTH = 255;
const SHOWN_WARNINGS = 5;

class SessionPage extends HTMLElement {
  #shownActions = "";

  async connectedCallback() {
    try {
      this.session = await client.sessions.get(context.session_id);
    } catch (error) {
      this.querySelector(".notices").replaceChildren(h("p.problem", { role: "alert" }, explain(error)));
      return;
    }
    this.mayRecord = may("record", this.session.project);
    this.mayManage = may("manage", this.session.project);
    this.player = new Player(this.querySelector(".player"), this.session);
    this.markers = new Markers(this.querySelector(".markers"), context.session_id, { player: this.player, mayChange: this.mayRecord });
    this.details = new Details(this.querySelector(".details"), (session) => this.#update(session));
    this.activity = new Activity(this.querySelector(".activity"), this.session);
    this.making = h("div");
    this.told = h("div");
    this.querySelector(".notices").replaceChildren(this.told, this.making);
    this.#update(this.session);
    this.#addKeys();
    this.#listen();
    await Promise.allSettled([this.markers.load(), this.activity.load()]);
    this.setAttribute("aria-busy", "false");
  }

  #update(session) {
    this.session = session;
    this.#showHead();
    this.told.replaceChildren(...notices(session, this.player));
    this.player.update(session);
    this.details.update(session);
  }

  #showHead() {
    const { session } = this;
    const [said, look] = words.state(session);
    const name = words.title(session);
    document.title = `${name} – SercueScribe`;
    if (!this.querySelector("h1 input")) {
      const rename = this.mayRecord && button("plain.icon-only.small", { "aria-label": "Rename", title: "Rename (e)", onclick: () => this.rename() }, icon("edit"));
      this.querySelector("h1").replaceChildren(...[h("span.name", {}, name), rename].filter(Boolean));
    }
    const length = session.duration_seconds === null ? null : h("span", {}, words.length(session.duration_seconds));
    const parts = [h(`span.pill${look ? `.${look.replaceAll(" ", ".")}` : ""}`, {}, said), length, words.timeElement(session.start_time), session.user_id && h("span", {}, session.user_id), h("span", {}, words.audio(session))];
    this.querySelector(".session-about").replaceChildren(...parts.filter(Boolean));
    this.#showActions();
  }

  /** Show the buttons that the state allows. They stay the same elements while it does, so that the focus stays. */
  #showActions() {
    const { session } = this;
    const { recording } = session;
    const isDownloadable = ["ready", "live"].includes(recording.state) || recording.partial_url;
    const wanted = [words.isOpen(session), isDownloadable && recording.state, recording.size_bytes, session.legal_hold].join();
    if (wanted === this.#shownActions) return;
    this.#shownActions = wanted;
    const actions = [
      words.isOpen(session) && this.mayRecord && button("danger", { onclick: () => this.close() }, icon("stop"), "Stop"),
      isDownloadable && downloadMenu(session, this.making),
      this.mayManage && button("plain.icon-only.to-delete", { "aria-label": "Delete", title: "Delete", onclick: () => this.delete() }, icon("trash")),
    ];
    this.querySelector(".session-actions").replaceChildren(...actions.filter(Boolean));
  }

  rename() {
    const heading = this.querySelector("h1");
    const input = h("input", { value: this.session.name ?? "", placeholder: "Name", maxlength: NAME_LENGTH, "aria-label": "Name of the session" });
    let isDone = false;
    const done = async (keeps) => {
      if (isDone) return;
      isDone = true;
      const name = input.value.trim() || null;
      input.remove();
      if (keeps && name !== this.session.name) await this.#change({ name });
      this.#showHead();
      heading.querySelector("button").focus();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") done(true);
      else if (event.key === "Escape") done(false);
    });
    input.addEventListener("blur", () => done(true));
    heading.replaceChildren(input);
    input.select();
  }

  async #change(changes) {
    try {
      this.session = await client.sessions.update(context.session_id, changes);
    } catch (error) {
      tell(explain(error));
    }
  }

  async close() {
    const text = ["After this, nobody can send more audio to this session, and the recording is finished."];
    if (!(await ask({ title: "Stop recording?", text, yes: "Stop" }))) return;
    try {
      this.#update(await client.sessions.close(context.session_id));
    } catch (error) {
      tell(explain(error));
    }
  }

  async delete() {
    const { session } = this;
    const lasts = session.duration_seconds === null ? "" : ` (${words.length(session.duration_seconds)})`;
    const text = [`“${words.title(session)}”${lasts} is deleted with its audio, its markers and all its files. This cannot be undone.`];
    if (!(await ask({ title: "Delete this session?", text, yes: "Delete", danger: true }))) return;
    try {
      await client.sessions.delete(context.session_id);
      location.assign(url(""));
    } catch (error) {
      tell(explain(error));
    }
  }

  #addKeys() {
    const rows = [[["u"], "Back to the sessions", () => location.assign(url(""))]];
    if (this.mayRecord) rows.push([["e"], "Rename", () => this.rename()]);
    if (this.mayManage) rows.push([["#"], "Delete", () => this.delete()]);
    addShortcuts("Session", rows);
  }

  async #listen() {
    try {
      for await (const event of client.events({ sessionId: context.session_id })) {
        if (event.type === "session.deleted") {
          this.#showDeleted();
          return;
        }
        await this.#onEvent(event);
      }
    } catch (error) {
      tell(`The page is no longer updated. ${explain(error)}`);
    }
  }

  #showDeleted() {
    this.player.close();
    this.replaceChildren(h("div.blank", {}, icon("trash"), h("h1", {}, "This session was deleted"), h("a.button", { href: url("") }, "Show all sessions")));
  }

  async #onEvent({ type, data }) {
    if (type === "session.progress" && words.isOpen(data)) {
      const { session } = this;
      this.#update({ ...session, ...data, recording: { ...session.recording, ...data.recording } });
    } else {
      const session = await client.sessions.get(context.session_id).catch(() => null);
      if (session) this.#update(session);
      if (type !== "session.progress") await Promise.allSettled([this.markers.load(), this.activity.load()]);
    }
  }
}

/** Return the problems of a recording for the reader: why it failed, and the audio that it lacks. */
function notices({ recording }, player) {
  const found = [];
  if (recording.state === "failed") {
    const rest = recording.partial_url ? " The part that could be made can be played and downloaded." : " Every chunk that was sent is still stored.";
    found.push(h("p.problem", { role: "alert" }, h("strong", {}, "The recording could not be made. "), recording.error.detail, rest));
  }
  if (!recording.warnings.length) return found;
  const shown = recording.warnings.slice(0, SHOWN_WARNINGS).map((warning) => warningRow(warning, player));
  const more = recording.warnings.length - shown.length;
  found.push(h("div.warnings", {}, icon("warning"), h("div", {}, h("strong", {}, "Some audio is not in the recording as it was sent."),
    h("ul", {}, ...shown, more > 0 && h("li", {}, `And ${more} more.`)))));
  return found;
}

function warningRow({ detail, start_seconds: start }, player) {
  if (start === null) return h("li", {}, detail);
  const jump = button("plain.small.jump", { "aria-label": `Jump to ${words.length(start)}`, onclick: () => player.seek(start) }, words.length(start));
  return h("li", {}, jump, detail);
}

customElements.define("session-page", SessionPage);
