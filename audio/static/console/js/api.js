/** The HTTP API with the login of the reader, through the same client that applications use. */

import { Client } from "../../../client/sercuescribe.js";
import { url } from "./context.js";

const CSRF = /(?:^|; )csrftoken=([^;]*)/;

/** Django requires the token of its cookie in requests of readers who have logged in. */
function headers() {
  const found = CSRF.exec(document.cookie);
  return found ? { "X-CSRFToken": found[1] } : {};
}

export const client = new Client({ server: new URL(url(""), location.href), headers });

/** Return a sentence about what went wrong. A reader whose login has ended is sent to log in again. */
export function explain(error) {
  if (error.status === 401) location.assign(`${url("login")}?next=${encodeURIComponent(location.pathname)}`);
  if (error.code === "network_error") return "The server does not answer. Check your connection, and try again.";
  return error.message;
}

/** Return every row of a paged list, at most `most`. */
export async function all(path, query = {}, most = 500) {
  const found = [];
  for (let cursor; cursor !== null && found.length < most; ) {
    const page = await client.request("GET", path, { query: { ...query, cursor } });
    found.push(...page.results);
    cursor = page.next && new URL(page.next, location.href).searchParams.get("cursor");
  }
  return found;
}
