/** Functions that the elements of the page share: the client, and the addresses of sessions. */

import { Client, IndexedDbQueue } from "../../../client/sercuescribe.js";

/** The headers of requests that change something: a login alone is not enough. */
export function headers() {
  const token = /(?:^|; )csrftoken=([^;]*)/.exec(document.cookie)?.[1];
  return token ? { "X-CSRFToken": token } : {};
}

export const client = new Client({ headers });
export const queue = IndexedDbQueue.isSupported() ? new IndexedDbQueue() : null;

/** Return where a session is shown. */
export function sessionUrl(id) {
  const pattern = document.querySelector("scribe-recorder").dataset.sessionUrl;
  return pattern ? pattern.replace("00000000-0000-0000-0000-000000000000", id) : client.audioUrl(id);
}

/** Return a link to a session. */
export function linkTo(session, text) {
  const link = document.createElement("a");
  link.href = sessionUrl(session.session_id);
  link.textContent = text;
  return link;
}

const busy = new Set();

/** Warn before the page is left, as long as something is being recorded or uploaded. */
export function keepOpen(what, isBusy) {
  if (isBusy) busy.add(what);
  else busy.delete(what);
}

addEventListener("beforeunload", (event) => {
  if (busy.size) event.preventDefault();
});
