/** The list of sessions. It updates itself, and loads more sessions as it is scrolled. */

import { client, explain } from "./api.js";
import { context, mayAnywhere, url } from "./context.js";
import { button, h, icon } from "./elements.js";
import { Feed } from "./feed.js";
import { matches, parseSearch } from "./search.js";
import { addShortcuts } from "./shortcuts.js";
import * as words from "./words.js";

const PAGE_SIZE = 50;
const TYPING_MS = 250;
// Changes are gathered for a moment. If there are many, the beginning of the list is read in one request.
const GATHER_MS = 300;
const MOST_SINGLE_READS = 8;
const FILTERS = ["q", "status", "format", "project"];

class SessionList extends HTMLElement {
  #filters = {};
  #cursor;
  #asked = new AbortController();
  #changed = new Set();
  #timer;

  connectedCallback() {
    this.form = this.querySelector("form");
    this.more = this.querySelector(".feed-end");
    this.said = this.querySelector("[role=status]");
    this.feed = new Feed(this.querySelector("[role=feed]"), sessionRow);
    this.#readAddress();
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#restart(), TYPING_MS);
    });
    new IntersectionObserver(([entry]) => entry.isIntersecting && this.#loadMore(), { rootMargin: "100% 0px" }).observe(
      this.more,
    );
    // A page that the browser has kept while the reader was elsewhere shows what was there then.
    addEventListener("pageshow", (event) => event.persisted && this.#restart());
    this.#listen();
    this.#restart();
  }

  focusSearch() {
    this.form.elements.q.focus();
    this.form.elements.q.select();
  }

  #readAddress() {
    const query = new URLSearchParams(location.search);
    for (const name of FILTERS) {
      const control = this.form.elements[name];
      if (control && query.has(name)) control.value = query.get(name);
    }
  }

  #writeAddress() {
    const query = new URLSearchParams();
    for (const name of FILTERS) {
      const value = this.form.elements[name]?.value;
      if (value) query.set(name, value);
    }
    history.replaceState(null, "", query.size ? `?${query}` : location.pathname);
  }

  /** Load the list anew, for the filters of the form. */
  #restart() {
    const { q, status, format, project } = this.form.elements;
    const chosen = { status: status.value, format: format.value, project: project?.value };
    const wanted = Object.fromEntries(Object.entries(chosen).filter(([, value]) => value));
    const { id, ...searched } = parseSearch(q.value);
    if (id) {
      location.assign(url(`sessions/${id}`));
      return;
    }
    this.#filters = { ...wanted, ...searched };
    this.#writeAddress();
    this.#asked.abort();
    this.#asked = new AbortController();
    this.#cursor = undefined;
    this.isLoading = false;
    this.isFresh = true;
    this.#loadMore();
  }

  async #loadMore() {
    if (this.isLoading || this.#cursor === null) return;
    this.isLoading = true;
    const { signal } = this.#asked;
    this.feed.element.setAttribute("aria-busy", "true");
    this.more.replaceChildren(h("p.loading", {}, "Loading…"));
    try {
      const query = { ...this.#filters, page_size: PAGE_SIZE, cursor: this.#cursor };
      const page = await client.sessions.page(query, { signal });
      if (this.isFresh) this.feed.clear();
      this.isFresh = false;
      this.#cursor = page.next;
      this.feed.append(page.results);
      this.isLoading = false;
      this.#showEnd();
    } catch (error) {
      if (signal.aborted) return;
      this.isLoading = false;
      this.#showProblem(error);
    }
    this.feed.element.setAttribute("aria-busy", "false");
  }

  #showEnd() {
    const isAll = this.#cursor === null;
    this.said.textContent = this.feed.isEmpty ? "No sessions." : `${words.count(this.feed.items.size, "session")} shown.`;
    this.more.replaceChildren(...(this.feed.isEmpty && isAll ? [this.#blank()] : []));
    // The end may still be in sight, and then nothing tells that it is.
    if (!isAll && this.more.getBoundingClientRect().top < 2 * innerHeight) this.#loadMore();
  }

  #blank() {
    if (Object.keys(this.#filters).length) {
      const clear = () => {
        this.form.reset();
        this.#restart();
      };
      return h("div.blank", {}, icon("search"), h("h2", {}, "Nothing matches"),
        h("p", {}, "The search finds names that begin with your text, in the same case. @Ana searches for a user, and room=4 for metadata."),
        button("", { onclick: clear }, "Show all sessions"));
    }
    const toRecord = document.querySelector(".to-record");
    const start = toRecord && h("a.button.primary", { href: toRecord.href }, icon("record"), "Record something");
    const hint = mayAnywhere("record")
      ? ["Record with your microphone, or send audio to ", h("code", {}, this.dataset.websocket), "."]
      : [context.projects.length ? "Nobody has recorded anything yet." : "You are not a member of a project yet. Ask a manager to add you."];
    return h("div.blank", {}, icon("wave"), h("h2", {}, "No sessions yet"), h("p", {}, ...hint), start);
  }

  #showProblem(error) {
    this.more.replaceChildren(
      h("div.blank", { role: "alert" }, icon("warning"), h("h2", {}, "The sessions can't be shown"),
        h("p", {}, explain(error)), button("", { onclick: () => this.#loadMore() }, "Try again")),
    );
  }

  async #listen() {
    try {
      for await (const event of client.events()) this.#onEvent(event);
    } catch (error) {
      this.said.textContent = `The list is no longer updated. ${explain(error)}`;
    }
  }

  #onEvent({ type, data }) {
    const known = this.feed.items.get(data.session_id);
    if (type === "session.deleted") {
      this.feed.remove(data.session_id);
      if (this.feed.isEmpty) this.#showEnd();
    } else if (type === "session.progress" && known) {
      this.#put({ ...known, ...data, ...estimate(known, data), recording: { ...known.recording, ...data.recording } });
    } else if (type.startsWith("session.") || type.startsWith("recording.")) {
      this.#changed.add(data.session_id);
      if (this.#changed.size === 1) setTimeout(() => this.#readChanged(), GATHER_MS);
    }
  }

  async #readChanged() {
    const ids = [...this.#changed];
    this.#changed.clear();
    const found = ids.length > MOST_SINGLE_READS ? await this.#readBeginning() : await readSingly(ids);
    for (const session of found) this.#put(session);
  }

  async #readBeginning() {
    const page = await client.sessions.page({ ...this.#filters, page_size: 100 }).catch(() => ({ results: [] }));
    return page.results.reverse();
  }

  #put(session) {
    if (!matches(session, this.#filters)) this.feed.remove(session.session_id);
    else {
      if (this.feed.isEmpty) this.more.replaceChildren();
      this.feed.put(session);
    }
  }
}

/**
 * Return how long an open session is by now. The server knows it exactly as of its last window; since then the session
 * has grown as its bytes have.
 */
function estimate(known, { duration_seconds: seconds, byte_count: bytes }) {
  const isNew = seconds !== known.measured?.seconds;
  const measured = isNew ? { seconds, bytes } : known.measured;
  const growth = measured.bytes ? (bytes - measured.bytes) * (measured.seconds / measured.bytes) : 0;
  return { measured, duration_seconds: seconds === null ? null : seconds + growth };
}

async function readSingly(ids) {
  const read = await Promise.allSettled(ids.map((id) => client.sessions.get(id)));
  return read.filter((each) => each.status === "fulfilled").map((each) => each.value);
}

function sessionRow(session, position) {
  const [said, look] = words.state(session);
  const seconds = session.duration_seconds;
  const isPlayable = words.isOpen(session) || session.recording.state === "ready";
  const about = [session.user_id, words.audio(session), context.projects.length > 1 ? session.project : null];
  const nameId = `name-${session.session_id}`;
  return h("article.row", { "aria-posinset": position, "aria-setsize": -1, "aria-labelledby": nameId },
    h(`span.row-icon${isPlayable ? "" : ".quiet"}`, {}, icon(words.isOpen(session) ? "live" : isPlayable ? "play" : "wave")),
    h("div.row-main", {},
      h("a.row-name", { id: nameId, href: url(`sessions/${session.session_id}`) }, words.title(session)),
      h("div.row-about", {}, words.timeElement(session.start_time), ...about.filter(Boolean).map((each) => h("span", {}, each)))),
    h("span.row-length", {}, seconds === null ? "" : h("span.visually-hidden", {}, "Length "), seconds === null ? "" : words.length(seconds)),
    h(`span.pill${look ? `.${look.replaceAll(" ", ".")}` : ""}`, {}, said));
}

customElements.define("session-list", SessionList);
const list = document.querySelector("session-list");

addShortcuts("Sessions", [
  [["j", "ArrowDown"], "Next session", () => list.feed.moveFocus(1)],
  [["k", "ArrowUp"], "Previous session", () => list.feed.moveFocus(-1)],
  [["/"], "Search", () => list.focusSearch()],
]);
