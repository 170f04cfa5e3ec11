import { Client } from "./client.js";
import { CHUNK_STORED, Connection } from "./connection.js";
import { ScribeError } from "./errors.js";
import { bytesPerSecond, isPcm } from "./pcm.js";
import { MemoryQueue, uniqueName } from "./queue.js";
import { backoffSeconds, tokenOf } from "./waiting.js";

const MOST_IN_FLIGHT_BYTES = 1024 * 1024;
const MOST_IN_FLIGHT_CHUNKS = 256;
/** Chunks that are not sent yet are kept in memory up to this size; the rest is read from the queue again. */
const MOST_CACHED_BYTES = 4 * 1024 * 1024;
/** Larger chunks are split, unless each is a file. It is far below the server's default limit of 10 MiB. */
const LARGEST_CHUNK_BYTES = 1024 * 1024;
/** After so many failed attempts without a greeting, the page is told what may be wrong. */
const ATTEMPTS_BEFORE_WARNING = 5;
/** A token that the application has just made and the server does not know will not become better. */
const MOST_TOKENS = 3;
/** The parameters that a connection to an existing session names too. */
const CONTINUING = ["sample_rate", "channels", "format", "encoding", "chunks"];

/**
 * Sends audio to a session. It keeps each chunk until the server has acknowledged it, and reconnects for as long as it
 * takes.
 *
 * Chunks and markers are entries of one list, in their order. An entry is stored in the queue before it is sent, and
 * removed when it is acknowledged. Each life of a page is a part with a source of its own, so the number of a chunk in
 * its part is its number in the source, and the greeting says exactly which chunks the server has.
 */
export class Recorder extends EventTarget {
  #options;
  #queue = null; // what the queue holds of this recording, once it is open
  #opened;
  #entries = []; // not acknowledged, oldest first
  #sentCount = 0; // how many of them were sent over this connection
  #inFlightBytes = 0;
  #cachedBytes = 0;
  #position = 0;
  #index = 0;
  #isPumping = false;
  #removed = null; // the newest acknowledged entry, until the queue has removed it
  #isRemoving = false;

  #connection = null;
  #connectedPart = 0;
  #timer = null;
  #attempts = 0;
  #tokens = 0;
  #retryAfterSeconds = 0;

  #state = "connecting";
  #sessionIds = [];
  #isPaused = false; // the application has paused
  #hasPaused = false; // the server was told so
  #isHeld = false; // somebody else has paused the session
  #mayResume = false;
  #isClosing = false;
  #sentClose = null; // the connection that was asked to close the session
  #isEnded = false;
  #flushes = [];
  #done;
  #wake = () => this.#reconnectNow();
  #check = () => this.#connection?.check();

  constructor({ server, token, headers, sessionId, parameters = {}, source, queue = new MemoryQueue() } = {}) {
    super();
    this.client = new Client({ server, token, headers });
    this.acknowledgedChunks = 0;
    this.pendingChunks = 0;
    this.pendingBytes = 0;
    this.error = null;
    this.#options = { token, parameters };
    this.#done = resolvers();
    this.#done.promise.catch(() => undefined);
    globalThis.addEventListener?.("online", this.#wake);
    globalThis.addEventListener?.("offline", this.#check);
    const details = {
      server: this.client.server,
      sessionId: sessionId ?? null,
      source: source ?? uniqueName(),
      parameters,
      isOwn: sessionId === undefined,
      base: { part: 1, count: 0 },
    };
    this.#opened = this.#open(queue, details);
  }

  get state() {
    return this.#state;
  }

  get sessionId() {
    return this.#sessionIds.at(-1) ?? null;
  }

  get sessionIds() {
    return [...this.#sessionIds];
  }

  get isConnected() {
    return Boolean(this.#connection?.isGreeted);
  }

  get pendingSeconds() {
    const rate = bytesPerSecond(this.#options.parameters);
    return rate && this.pendingBytes / rate;
  }

  // What the application calls.

  async send(chunk) {
    this.#rejectAfterEnd();
    const isWhole = this.#options.parameters.chunks === "files";
    await Promise.all(pieces(chunk, isWhole ? Infinity : LARGEST_CHUNK_BYTES).map((piece) => this.#add(piece)));
  }

  async marker(label) {
    this.#rejectAfterEnd();
    await this.#add(null, label);
  }

  pause() {
    if (this.#isEnded || this.#isClosing) return;
    this.#isPaused = true;
    this.#settle();
  }

  resume() {
    if (this.#isEnded) return;
    this.#isPaused = false;
    if (this.#isHeld) this.#takeOver();
    this.#settle();
  }

  close() {
    if (!this.#isEnded && !this.#isClosing) {
      this.#isClosing = true;
      this.#isPaused = false;
      if (this.#isHeld) this.#takeOver();
      this.#opened.then(() => this.#settle());
    }
    return this.#done.promise;
  }

  async flush() {
    await this.#opened;
    if (this.#isEnded && this.error) throw this.error;
    if (!this.#entries.length) return;
    await new Promise((resolve, reject) => this.#flushes.push({ resolve, reject }));
  }

  abort() {
    if (!this.#isEnded) this.#fail(new ScribeError("aborted", "The recorder was stopped by the page."));
  }

  // The queue.

  async #open(queue, details) {
    try {
      this.#queue = await queue.begin(details);
    } catch (error) {
      if (error?.name === "NotFoundError") return this.#fail(new ScribeError("leftover_gone", error.message));
      this.#warn("queue_failed", "This browser cannot keep the audio. It is lost if the page is closed now.", error);
      this.#queue = await new MemoryQueue().begin(details);
    }
    if (this.#isEnded) return this.#queue.release();
    // What is sent to a page of today is behind what earlier pages have left.
    const kept = this.#queue.entries.map((entry) => ({ ...entry, isStored: true }));
    this.#mayResume = kept.length > 0 || this.#queue.part > 1;
    this.#entries.unshift(...kept);
    for (const entry of kept) this.#count(entry, 1);
    if (this.#queue.details.moved) await this.#rebase(this.#queue.details.sessionId);
    if (this.#queue.details.sessionId) this.#sessionIds.push(this.#queue.details.sessionId);
    this.#announce();
    this.#connect();
  }

  async #add(data, label) {
    const isChunk = label === undefined;
    this.#position += 1;
    if (isChunk) this.#index += 1;
    const entry = {
      position: this.#position,
      index: isChunk ? this.#index : null,
      size_bytes: isChunk ? sizeOf(data) : 0,
      ...(!isChunk && { label }),
    };
    this.#entries.push(entry);
    this.#count(entry, 1);
    await this.#opened;
    entry.part = this.#queue.part;
    try {
      await this.#queue.add(entry, data);
      if (this.#cachedBytes < MOST_CACHED_BYTES) this.#cache(entry, data);
    } catch (error) {
      // Other pages of the same origin may have used up the room.
      this.#warn("queue_failed", "This browser has no room for the audio. What is not uploaded is lost with the page.", error);
      this.#cache(entry, data);
    }
    entry.isStored = true;
    this.#announce();
    this.#settle();
  }

  #cache(entry, data) {
    entry.data = data;
    this.#cachedBytes += entry.size_bytes;
  }

  #count(entry, sign) {
    if (entry.index === null) return;
    this.pendingChunks += sign;
    this.pendingBytes += sign * entry.size_bytes;
  }

  #dropFirst() {
    const entry = this.#entries.shift();
    this.#count(entry, -1);
    if (entry.index !== null) this.acknowledgedChunks += 1;
    if (entry.data) this.#cachedBytes -= entry.size_bytes;
    this.#removed = entry;
    this.#removeAcknowledged();
  }

  /** Remove what is acknowledged from the queue. What a crash leaves there is dropped at the next greeting. */
  async #removeAcknowledged() {
    if (this.#isRemoving) return;
    this.#isRemoving = true;
    while (this.#removed) {
      const entry = this.#removed;
      this.#removed = null;
      await this.#queue.remove(entry).catch(() => undefined);
    }
    this.#isRemoving = false;
  }

  // The connection.

  async #connect() {
    this.#timer = null;
    if (this.#isEnded || this.#connection) return;
    let token;
    try {
      token = await tokenOf(this.#options.token);
    } catch (error) {
      return this.#retry(error);
    }
    if (this.#isEnded || this.#connection) return;
    this.#connectedPart = this.#entries.find(({ isStored }) => isStored)?.part ?? this.#queue.part;
    this.#sentCount = this.#inFlightBytes = this.#retryAfterSeconds = 0;
    this.#hasPaused = false;
    this.#connection = new Connection(this.#url(), token, {
      greeted: (greeting) => this.#greeted(greeting),
      answered: (item, answer) => this.#answered(item, answer),
      rejected: (item, error) => this.#rejected(item, error),
      closed: (code, error) => this.#closed(code, error),
    });
  }

  #url() {
    const { sessionId, source } = this.#queue.details;
    const part = this.#connectedPart;
    const query = new URLSearchParams({ source: part === 1 ? source : `${source}.${part}` });
    const { metadata = {}, ...named } = this.#options.parameters;
    for (const [name, value] of Object.entries(named))
      if (value !== undefined && value !== null && (!sessionId || CONTINUING.includes(name))) query.set(name, value);
    if (!sessionId) for (const [key, value] of Object.entries(metadata)) query.set(`metadata.${key}`, value);
    const path = sessionId ? `/${sessionId}` : "";
    return `${this.client.server.replace(/^http/, "ws")}/api/ws/audio${path}?${query}`;
  }

  #greeted({ session_id, source_chunk_count, status }) {
    this.#attempts = this.#tokens = 0;
    this.#dropStored(source_chunk_count);
    if (session_id !== this.sessionId) {
      this.#sessionIds.push(session_id);
      this.#queue.update({ sessionId: session_id }).catch(() => undefined);
      this.#dispatch("session", { sessionId: session_id });
    }
    this.#hasPaused = status === "paused";
    if (this.#hasPaused && !this.#isPaused && !this.#mayResume && !this.#isClosing) this.#hold();
    this.#announce();
    this.#settle();
  }

  /** Drop what the server has stored of the connected part, with the markers in between. */
  #dropStored(sourceChunkCount) {
    const { part, count } = this.#queue.details.base;
    const stored = sourceChunkCount + (part === this.#connectedPart ? count : 0);
    const isStored = (entry) => entry.part === this.#connectedPart && entry.index !== null && entry.index <= stored;
    for (let left = this.#entries.findLastIndex(isStored) + 1; left > 0; left -= 1) this.#dropFirst();
  }

  #answered(item, answer) {
    if (item?.position !== undefined) {
      if (answer.message === CHUNK_STORED || item.label !== undefined) this.#delivered(item);
    } else if (answer.message === "Session closed successfully") {
      if (item) this.#finish();
      else this.#fail(new ScribeError("session_closed", "The session was closed by somebody else, or by a limit."));
    }
    this.#settle();
  }

  #delivered(entry) {
    this.#sentCount -= 1;
    this.#inFlightBytes -= entry.size_bytes;
    this.#dropFirst();
    this.#announce();
  }

  #rejected(item, error) {
    if (item?.label !== undefined) {
      this.#dispatch("warning", error);
      this.#delivered(item);
    } else if (error.code === "session_paused") this.#hold(error);
    else if (error.code === "session_closed") this.#sessionClosed(error);
    else if (error.retryable) this.#retryAfterSeconds = error.retryAfterSeconds ?? 0;
    else if (error.code === "not_authenticated" && typeof this.#options.token === "function" && ++this.#tokens < MOST_TOKENS)
      this.#retry(error);
    else this.#fail(error);
  }

  #closed(code, error) {
    this.#connection = null;
    if (this.#isEnded) return;
    const fatal = {
      1002: ["protocol_error", "The server could not read the messages of this page."],
      1007: ["protocol_error", "The server could not read the messages of this page."],
      1009: ["message_too_large", "A chunk is larger than the server allows."],
      4409: ["superseded", "Another connection has taken over this source."],
    }[code];
    if (fatal) this.#fail(new ScribeError(...fatal));
    else this.#retry(error);
  }

  #retry(error) {
    this.#drop();
    if (this.#isEnded) return;
    this.#attempts += 1;
    if (this.#attempts === ATTEMPTS_BEFORE_WARNING && !this.#sessionIds.length) {
      const sentence = `${this.client.server} cannot be reached, or it rejects this page (ALLOWED_ORIGINS, ALLOWED_HOSTS).`;
      this.#warn("unreachable", sentence, error ?? undefined);
    }
    const seconds = backoffSeconds(this.#attempts, this.#retryAfterSeconds || error?.retryAfterSeconds);
    this.#timer = setTimeout(() => this.#connect(), 1000 * seconds);
    this.#showState();
  }

  #drop() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#connection?.drop();
    this.#connection = null;
  }

  #reconnectNow() {
    if (this.#timer === null || this.#isEnded) return;
    clearTimeout(this.#timer);
    this.#connect();
  }

  // What happens next.

  /** Do what the entries and the wishes of the application ask for, and show the state. */
  #settle() {
    if (this.#isEnded) return;
    if (!this.#entries.length) for (const { resolve } of this.#flushes.splice(0)) resolve();
    if (this.isConnected && !this.#isHeld) {
      if (!this.#isInConnectedPart()) return this.#nextPart();
      if (this.#entries.length) this.#pump();
      else if (this.#isClosing) this.#sendClose();
      else if (this.#isPaused && !this.#hasPaused) this.#tellPause("pause");
      else if (!this.#isPaused && this.#hasPaused) this.#tellPause("resume");
    }
    this.#showState();
  }

  #isInConnectedPart() {
    const part = this.#entries[0]?.part ?? this.#connectedPart;
    return this.#sentCount > 0 || part === this.#connectedPart;
  }

  /** What an earlier page has left is uploaded. What follows is a source of its own. */
  #nextPart() {
    this.#drop();
    this.#connect();
    this.#showState();
  }

  #tellPause(action) {
    this.#hasPaused = action === "pause";
    this.#connection.control(action);
  }

  #sendClose() {
    if (this.#sentClose === this.#connection) return;
    this.#sentClose = this.#connection;
    if (this.#hasPaused) this.#tellPause("resume");
    this.#connection.control("close_session");
  }

  /** Send entries, as many as may be in flight. */
  async #pump() {
    if (this.#isPumping) return;
    this.#isPumping = true;
    try {
      while (this.#canSend()) {
        const entry = this.#entries[this.#sentCount];
        const connection = this.#connection;
        const message = entry.label === undefined ? (entry.data ?? (await this.#queue.read(entry))) : markerOf(entry);
        if (connection !== this.#connection || entry !== this.#entries[this.#sentCount] || this.#isHeld) continue;
        if (this.#hasPaused) this.#tellPause("resume");
        this.#sentCount += 1;
        this.#inFlightBytes += entry.size_bytes;
        connection.send(message, entry);
      }
    } catch (error) {
      this.#fail(new ScribeError("queue_failed", "What was kept in this browser cannot be read.", { cause: error }));
    } finally {
      this.#isPumping = false;
    }
  }

  #canSend() {
    const entry = this.#entries[this.#sentCount];
    return (
      this.isConnected &&
      !this.#isHeld &&
      entry?.isStored &&
      entry.part === this.#connectedPart &&
      this.#sentCount < MOST_IN_FLIGHT_CHUNKS &&
      (!this.#sentCount || this.#inFlightBytes + entry.size_bytes <= MOST_IN_FLIGHT_BYTES)
    );
  }

  /** Wait, because somebody else has paused the session. `resume` and `close` take over. */
  #hold(error = new ScribeError("session_paused", "Somebody else has paused the session.")) {
    if (this.#isHeld) return;
    this.#isHeld = true;
    this.#dispatch("warning", error);
    if (this.#isClosing) this.#takeOver();
    this.#showState();
  }

  #takeOver() {
    this.#isHeld = false;
    this.#mayResume = true;
    // A new connection knows what was stored before the pause.
    this.#drop();
    this.#connect();
  }

  /** The server has closed the session, which it does when a client is away for too long. */
  #sessionClosed({ details }) {
    // Acknowledgements may have been lost with the connection. What is stored must not begin a new session.
    if (details.source_chunk_count !== undefined) this.#dropStored(details.source_chunk_count);
    if (this.#isClosing && !this.#entries.length) return this.#finish();
    const { isOwn, sessionId } = this.#queue.details;
    const error = new ScribeError("session_closed", "The server has closed the session while the page was away.");
    if (!isOwn || !isPcm(this.#options.parameters) || this.isConnected) return this.#fail(error);
    this.#options.parameters = {
      ...this.#options.parameters,
      metadata: { ...this.#options.parameters.metadata, continues: sessionId },
    };
    this.#drop();
    this.#rebase(null).then(() => {
      this.#warn("session_continued", "The server has closed the session while the page was away. A new one continues it.");
      this.#connect();
    });
  }

  /** Let the entries that wait begin a new session. */
  async #rebase(sessionId) {
    const first = this.#entries.find(({ index }) => index !== null);
    const part = first?.part ?? this.#queue.part;
    const base = { part, count: (first?.index ?? this.#index + 1) - 1 };
    await this.#queue.update({ sessionId, base, moved: false }).catch(() => undefined);
  }

  async #finish() {
    this.#drop();
    this.#end();
    await this.#queue.discard().catch(() => undefined);
    try {
      this.#done.resolve(await this.client.sessions.ready(this.sessionId));
      this.#setState("completed");
    } catch (error) {
      this.error = error;
      this.#setState("failed");
      this.#dispatch("error", error);
      this.#done.reject(error);
    }
  }

  #fail(error) {
    if (this.#isEnded) return;
    this.#drop();
    this.#end();
    this.error = error;
    this.#queue?.release();
    this.#setState("failed");
    this.#dispatch("error", error);
    for (const { reject } of this.#flushes.splice(0)) reject(error);
    this.#done.reject(error);
  }

  #end() {
    this.#isEnded = true;
    globalThis.removeEventListener?.("online", this.#wake);
    globalThis.removeEventListener?.("offline", this.#check);
  }

  #rejectAfterEnd() {
    if (this.error) throw this.error;
    if (this.#isEnded || this.#isClosing) throw new ScribeError("recorder_closed", "The recorder is closed.");
  }

  // What the application is told.

  #showState() {
    if (this.#isEnded) return;
    if (this.#isClosing) this.#setState("closing");
    else if (this.#isPaused || this.#isHeld) this.#setState("paused");
    else if (this.isConnected) this.#setState("recording");
    else if (this.#attempts) this.#setState("offline");
    else if (!this.#sessionIds.length) this.#setState("connecting");
  }

  #setState(state) {
    if (state === this.#state) return;
    const previous = this.#state;
    this.#state = state;
    this.#dispatch("state", { state, previous });
  }

  #announce() {
    const { acknowledgedChunks, pendingChunks, pendingBytes } = this;
    this.#dispatch("progress", { acknowledgedChunks, pendingChunks, pendingBytes });
  }

  #warn(code, sentence, cause) {
    this.#dispatch("warning", new ScribeError(code, sentence, { cause }));
  }

  #dispatch(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function markerOf({ label }) {
  return JSON.stringify({ type: "marker", label });
}

function sizeOf(data) {
  return data.size ?? data.byteLength;
}

/** Return a chunk as copies of its own, each of at most so many bytes; nothing for an empty one. */
function pieces(chunk, largestBytes) {
  let data = chunk;
  if (ArrayBuffer.isView(chunk)) data = chunk.buffer.slice(chunk.byteOffset, chunk.byteOffset + chunk.byteLength);
  else if (chunk instanceof ArrayBuffer) data = chunk.slice();
  else if (!(chunk instanceof Blob)) throw new TypeError("A chunk is an ArrayBuffer, a view of one, or a Blob.");
  const all = [];
  for (let at = 0; at < sizeOf(data); at += largestBytes) all.push(data.slice(at, at + largestBytes));
  return all;
}

function resolvers() {
  let resolve, reject;
  const promise = new Promise((...both) => ([resolve, reject] = both));
  return { promise, resolve, reject };
}
