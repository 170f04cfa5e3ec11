import { errorOf, ScribeError } from "./errors.js";
import { backoffSeconds, sleep, tokenOf } from "./waiting.js";

const SESSIONS = "/api/audio/sessions";
const POLL_SECONDS = 0.5;
const MOST_POLL_SECONDS = 3;
// The server sends a comment every 15 seconds.
const SILENCE_SECONDS = 45;

/** Return the URL of the server without a slash at the end. In a browser the default is this module's server. */
export function serverUrl(server) {
  if (server === undefined) {
    const own = new URL("..", import.meta.url);
    if (!own.protocol.startsWith("http"))
      throw new ScribeError("invalid_parameter", "Name the server: new Client({ server: 'https://…' }).");
    server = own;
  }
  const text = String(server);
  return (text.includes("://") ? text : `http://${text}`).replace(/[?#].*$/, "").replace(/\/+$/, "");
}

/** The HTTP API. */
export class Client {
  #token;
  #headers;

  constructor({ server, token, headers = {} } = {}) {
    this.server = serverUrl(server);
    this.#token = token;
    this.#headers = headers;
    this.sessions = new Sessions(this);
    this.markers = new Markers(this);
  }

  /** Send a request and return the Response, whatever its status. Rejects with `network_error` if there is none. */
  async fetch(method, path, { body, query, headers = {}, signal } = {}) {
    const token = await tokenOf(this.#token);
    const own = typeof this.#headers === "function" ? this.#headers() : this.#headers;
    const options = { method, signal, headers: { ...own, ...headers } };
    if (token) options.headers.Authorization = `Bearer ${token}`;
    if (body !== undefined) {
      options.headers["Content-Type"] = "application/json";
      options.body = JSON.stringify(body);
    }
    try {
      return await fetch(this.#url(path, query), options);
    } catch (error) {
      if (signal?.aborted) throw error;
      const sentence = `${this.server} cannot be reached, or it does not let this page use it (ALLOWED_ORIGINS).`;
      throw new ScribeError("network_error", sentence, { retryable: true, cause: error });
    }
  }

  /** Send a request and return its JSON; null for a response without a body. */
  async request(method, path, options = {}) {
    const response = await this.fetch(method, path, options);
    if (!response.ok || response.status === 202) throw await errorOf(response);
    return response.status === 204 ? null : response.json();
  }

  /** The URL of a recording, for a player or a download. */
  audioUrl(id, { format, markers, partial, token } = {}) {
    return this.#url(`${sessionPath(id)}/audio`, { format, markers, partial, token });
  }

  /** Wait until a recording can be downloaded in a format, and return its URL. */
  async prepare(id, format, options = {}) {
    const query = { format: format ?? undefined };
    // One byte is enough to know, and starts the transcode as a whole download would.
    const headers = { Range: "bytes=0-0" };
    const ask = () => this.fetch("GET", `${sessionPath(id)}/audio`, { query, headers, signal: options.signal });
    const response = await untilReady(ask, options);
    await response.body?.cancel();
    return this.audioUrl(id, query);
  }

  /** Get the waveform, once it is there. */
  async waveform(id, { points, start, end, signal, onProgress } = {}) {
    const query = { points, start, end };
    const ask = () => this.fetch("GET", `${sessionPath(id)}/waveform`, { query, signal });
    return (await untilReady(ask, { signal, onProgress })).json();
  }

  /** Listen to events. It reconnects by itself, and continues after the last event that it had. */
  async *events({ sessionId, lastEventId, signal } = {}) {
    let failures = 0;
    for (;;) {
      try {
        const query = { session_id: sessionId, last_event_id: lastEventId };
        const headers = { Accept: "text/event-stream" };
        const response = await this.fetch("GET", "/api/events", { query, headers, signal });
        if (!response.ok) throw await errorOf(response);
        for await (const event of serverSentEvents(response.body)) {
          failures = 0;
          if (event.id) lastEventId = event.id;
          yield { id: null, ...JSON.parse(event.data), type: event.type, lastEventId: lastEventId ?? null };
        }
      } catch (error) {
        if (signal?.aborted) return;
        if (error instanceof ScribeError ? !error.retryable : !(error instanceof TypeError)) throw error;
        failures += 1;
        if (!(await slept(backoffSeconds(failures, error.retryAfterSeconds), signal))) return;
        continue;
      }
      if (signal?.aborted || !(await slept(backoffSeconds(1), signal))) return;
    }
  }

  #url(path, query = {}) {
    const url = new URL(this.server + path);
    for (const [name, value] of Object.entries(query)) {
      for (const each of Array.isArray(value) ? value : [value])
        if (each !== undefined && each !== null) url.searchParams.append(name, each);
    }
    return url.href;
  }
}

/** Sessions: list, show, create, change, close, delete. */
class Sessions {
  #client;

  constructor(client) {
    this.#client = client;
  }

  async *list(filters = {}, options = {}) {
    for (let cursor; cursor !== null;) {
      const page = await this.page({ ...filters, cursor }, options);
      yield* page.results;
      cursor = page.next;
    }
  }

  async page({ metadata = {}, ...filters } = {}, { signal } = {}) {
    const query = Object.entries(filters).map(([name, value]) => [
      name,
      value instanceof Date ? value.toISOString() : value,
    ]);
    for (const [key, value] of Object.entries(metadata)) query.push([`metadata.${key}`, value]);
    return pageOf(await this.#client.request("GET", SESSIONS, { query: Object.fromEntries(query), signal }));
  }

  get(id, { signal } = {}) {
    return this.#client.request("GET", sessionPath(id), { signal });
  }

  create(parameters = {}) {
    return this.#client.request("POST", SESSIONS, { body: parameters });
  }

  update(id, changes) {
    return this.#client.request("PATCH", sessionPath(id), { body: changes });
  }

  async close(id) {
    return (await this.#client.request("POST", `${sessionPath(id)}/close`)).final_info;
  }

  async delete(id) {
    await this.#client.request("DELETE", sessionPath(id));
  }

  /** Wait until the recording of a closed session is ready. A server that is away is waited for. */
  async ready(id, { signal, onProgress } = {}) {
    for (let failures = 0, seconds = POLL_SECONDS / 2; ; seconds = Math.min(MOST_POLL_SECONDS, 1.5 * seconds)) {
      try {
        const session = await this.get(id, { signal });
        const { state, error, progress } = session.recording;
        if (state === "failed") throw new ScribeError(error.code, error.detail, { session });
        if (state === "ready" || (session.status === "completed" && !session.total_chunks)) return session;
        onProgress?.(progress ?? 0);
        failures = 0;
      } catch (error) {
        if (!error.retryable) throw error;
        failures += 1;
        await sleep(backoffSeconds(failures, error.retryAfterSeconds), signal);
        continue;
      }
      await sleep(seconds, signal);
    }
  }

  createToken(id, options = {}) {
    return this.#client.request("POST", `${sessionPath(id)}/tokens`, { body: options });
  }
}

/** The markers of a session. */
class Markers {
  #client;

  constructor(client) {
    this.#client = client;
  }

  async *list(sessionId) {
    for (let cursor; cursor !== null;) {
      const path = `${sessionPath(sessionId)}/markers`;
      const page = pageOf(await this.#client.request("GET", path, { query: { cursor } }));
      yield* page.results;
      cursor = page.next;
    }
  }

  add(sessionId, marker) {
    return this.#client.request("POST", `${sessionPath(sessionId)}/markers`, { body: marker });
  }

  update(sessionId, markerId, changes) {
    return this.#client.request("PATCH", `${sessionPath(sessionId)}/markers/${encodeURIComponent(markerId)}`, {
      body: changes,
    });
  }

  async delete(sessionId, markerId) {
    await this.#client.request("DELETE", `${sessionPath(sessionId)}/markers/${encodeURIComponent(markerId)}`);
  }
}

/** Return the path of a session under the server's URL. */
export function sessionPath(id) {
  return `${SESSIONS}/${encodeURIComponent(id)}`;
}

/** Return a page with its cursors in place of its links. */
function pageOf({ results, next, previous }) {
  const cursor = (link) => link && new URL(link, "http://server").searchParams.get("cursor");
  return { results, next: cursor(next) || null, previous: cursor(previous) || null };
}

/** Ask until the answer is neither "not yet" nor "try again", and return it. */
async function untilReady(ask, { signal, onProgress }) {
  for (let failures = 0; ;) {
    const error = await ask().then(
      async (response) => (response.ok && response.status !== 202 ? response : errorOf(response)),
      (failure) => failure,
    );
    if (error instanceof Response) return error;
    if (!error.retryable) throw error;
    if (error.status === 202) {
      onProgress?.(error.details.progress ?? 0);
      await sleep(Math.min(error.retryAfterSeconds ?? POLL_SECONDS, MOST_POLL_SECONDS), signal);
    } else {
      failures += 1;
      await sleep(backoffSeconds(failures, error.retryAfterSeconds), signal);
    }
  }
}

/** Reject if a promise takes too long: a stream without its heartbeats has lost its server. */
function withDeadline(promise, seconds) {
  let timer;
  const late = new Promise((_, reject) => {
    const error = new ScribeError("network_error", "The server has gone silent.", { retryable: true });
    timer = setTimeout(() => reject(error), 1000 * seconds);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function slept(seconds, signal) {
  try {
    await sleep(seconds, signal);
    return true;
  } catch {
    return false;
  }
}

/** The events of a stream, as https://html.spec.whatwg.org/multipage/server-sent-events.html parses them. */
async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let event = {};
  const read = () => withDeadline(reader.read(), SILENCE_SECONDS);
  try {
    for (let { value, done } = await read(); !done; { value, done } = await read()) {
      const lines = (text + value).split(/\r\n|\n|\r/);
      text = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (event.data !== undefined) yield { type: "message", ...event };
          event = {};
        } else if (!line.startsWith(":")) {
          const [, name, content] = /^([^:]*):? ?(.*)$/.exec(line);
          if (name === "data") event.data = event.data === undefined ? content : `${event.data}\n${content}`;
          else if (name === "id") event.id = content;
          else if (name === "event") event.type = content;
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
