import { sessionPath } from "./client.js";
import { errorOf, ScribeError } from "./errors.js";
import { backoffSeconds, sleep } from "./waiting.js";

const POLL_SECONDS = 1;
/** A file is not loaded again earlier, because each load is a short interruption. */
const LEAST_LOADED_SECONDS = 3;
/** So near to the end the server is asked for more, so that the element can go on there without waiting for it. */
const NEAR_SECONDS = 1;
/** How far behind the newest sound `seekToLive` begins. */
const BEHIND_SECONDS = 1;
/** No recording is so long. An element that does not know the length finds the end when it looks there. */
const FAR_SECONDS = 1e8;
const LEAST_STEP_SECONDS = 0.1;
const MOST_FAILURES = 3;
/** MediaError.MEDIA_ERR_NETWORK. */
const NETWORK_ERROR = 2;

/**
 * Plays a session in a media element, also while it is still being recorded.
 *
 * A recording that grows is a file that grows, and the element knows the file as long as it was when it was loaded. At
 * its end the longer file is loaded, and the element plays on.
 */
export class LivePlayer extends EventTarget {
  #element;
  #client;
  #sessionId;
  #token;
  #closed = new AbortController();
  #loads = 0;
  #isLoading = false;
  #loadedBytes = 0;
  #loadedAtMs = 0;
  #isWhole = false; // whether the loaded file grows no more
  #isPartial = false; // whether it is the part of a recording that failed
  #longer = null; // the promise of a longer file
  #wait = null; // what is to happen when there is more: whether to play
  #handlers = {
    ended: () => this.#goOn({ plays: true }),
    error: () => this.#recover(),
    timeupdate: () => this.#lookAhead(),
    // Whoever plays or seeks meanwhile wants something else.
    play: () => this.#interrupt(),
    seeking: () => this.#interrupt(),
  };

  constructor(element, { client, sessionId, token }) {
    super();
    this.#element = element;
    this.#client = client;
    this.#sessionId = sessionId;
    this.#token = token;
    this.isLive = true;
    for (const [type, handler] of Object.entries(this.#handlers)) element.addEventListener(type, handler);
  }

  get isWaiting() {
    return Boolean(this.#wait?.plays);
  }

  /** Load what there is, and wait for the first sound if there is none yet. */
  async load() {
    this.#wait = null;
    await this.#load(await this.#sizeBytes(), 0);
  }

  /** Play. At the end of what there is, wait for more. */
  async play() {
    const { ended, error } = this.#element;
    if (this.#wait) this.#wait.plays = true;
    else if (!this.#isWhole && (ended || error)) this.#goOn({ plays: true });
    else await this.#element.play();
  }

  /** Pause, or wait no longer. */
  pause() {
    this.#wait = null;
    this.#element.pause();
  }

  async seekToLive() {
    const element = this.#element;
    const isPlaying = !element.paused || this.isWaiting;
    await this.load();
    if (!Number.isFinite(element.duration)) await this.#seek(FAR_SECONDS);
    await this.#seek(Math.max(0, element.duration - BEHIND_SECONDS));
    if (isPlaying) await element.play();
  }

  close() {
    this.#closed.abort();
    this.#wait = null;
    for (const [type, handler] of Object.entries(this.#handlers)) this.#element.removeEventListener(type, handler);
    this.#element.removeAttribute("src");
    this.#element.load();
  }

  // At the end of what there is.

  #lookAhead() {
    if (!this.#isLoading && !this.#isWhole && this.#isNearEnd()) this.#untilLonger();
  }

  #isNearEnd() {
    return this.#element.duration - this.#element.currentTime < NEAR_SECONDS;
  }

  #interrupt() {
    if (!this.#isLoading) this.#wait = null;
  }

  /**
   * Go on after an error. The end of the file may cut a frame in two, and the server does not send the rest of a file
   * when there is a longer one.
   */
  #recover() {
    const { error, paused } = this.#element;
    if (this.#isLoading) return;
    const isCut = error.code === NETWORK_ERROR;
    if (this.#isWhole && (isCut || !this.#isNearEnd())) this.#report(error);
    else this.#goOn({ plays: !paused, isCut });
  }

  /** Load the file when it has become longer, and play on. If the connection was cut, load it in any case. */
  async #goOn({ plays, isCut = false }) {
    if (this.#wait) return;
    if (this.#isWhole) return this.dispatchEvent(new Event("complete"));
    const wait = (this.#wait = { plays });
    const { currentTime: position } = this.#element;
    this.dispatchEvent(new Event("waiting"));
    try {
      do {
        const sizeBytes = await (isCut ? this.#sizeBytes() : this.#untilLonger());
        if (this.#wait !== wait) return;
        await this.#load(sizeBytes, position);
        // The file may have bytes of sound that is not complete yet.
      } while (!isCut && !this.#isWhole && !this.#hasMore(position));
      if (this.#wait === wait) await this.#continue(wait, position);
    } catch (error) {
      if (error?.name !== "AbortError") this.#report(error);
    } finally {
      if (this.#wait === wait) this.#wait = null;
    }
  }

  async #continue({ plays }, position) {
    if (!this.#hasMore(position)) this.dispatchEvent(new Event("complete"));
    else if (plays) await this.#element.play();
  }

  #hasMore(position) {
    return this.#element.duration > position + LEAST_STEP_SECONDS;
  }

  #report(error) {
    this.dispatchEvent(new CustomEvent("error", { detail: error }));
  }

  // What the server has.

  /** Return the size of the file, once it is longer than the one that is loaded, or grows no more. */
  #untilLonger() {
    if (!this.#longer) {
      this.#longer = this.#pollLonger();
      this.#longer.catch(() => (this.#longer = null));
    }
    return this.#longer;
  }

  async #pollLonger() {
    const { signal } = this.#closed;
    const loadedSeconds = (performance.now() - this.#loadedAtMs) / 1000;
    await sleep(Math.max(0, LEAST_LOADED_SECONDS - loadedSeconds), signal);
    for (;;) {
      const sizeBytes = await this.#sizeBytes();
      if (!this.isLive || sizeBytes > this.#loadedBytes) return sizeBytes;
      await sleep(POLL_SECONDS, signal);
    }
  }

  /** Return the size of the file, and wait until there is one. Once something was loaded, wait for the server too. */
  async #sizeBytes() {
    const { signal } = this.#closed;
    for (let failures = 0; ; ) {
      try {
        const found = await this.#ask(signal);
        if (found !== null) return found;
        failures = 0;
        await sleep(POLL_SECONDS, signal);
      } catch (error) {
        if (!error.retryable || !this.#loads) throw error;
        failures += 1;
        await sleep(backoffSeconds(failures, error.retryAfterSeconds), signal);
      }
    }
  }

  /** Return the size of the file; null while there is none. The server adds the newest sound to it first. */
  async #ask(signal) {
    const session = await this.#client.sessions.get(this.#sessionId, { signal });
    const { state, error } = session.recording;
    this.isLive = !["ready", "failed"].includes(state) && !(session.status === "completed" && !session.total_chunks);
    this.#isPartial = state === "failed";
    if (this.#isPartial && !session.recording.partial_url) throw new ScribeError(error.code, error.detail, { session });
    const query = { partial: this.#isPartial || undefined };
    const response = await this.#client.fetch("HEAD", `${sessionPath(this.#sessionId)}/audio`, { query, signal });
    if (response.status === 200) return Number(response.headers.get("Content-Length"));
    if (response.status === 202 || (this.isLive && response.status === 404)) return null;
    throw await errorOf(response);
  }

  // The element.

  async #load(sizeBytes, position) {
    for (let failures = 0; ; ) {
      const isWhole = !this.isLive;
      try {
        await this.#attach(position);
        this.#loadedBytes = sizeBytes;
        this.#loadedAtMs = performance.now();
        this.#isWhole = isWhole;
        this.#longer = null;
        return;
      } catch (error) {
        failures += 1;
        if (failures === MOST_FAILURES || this.#closed.signal.aborted) throw error;
        await sleep(POLL_SECONDS, this.#closed.signal);
        sizeBytes = await this.#sizeBytes();
      }
    }
  }

  async #attach(position) {
    const options = { token: this.#token, partial: this.#isPartial || undefined };
    this.#loads += 1;
    this.#isLoading = true;
    try {
      // Chromium remembers for minutes how long the file of a URL was. The server does not see the fragment.
      this.#element.src = `${this.#client.audioUrl(this.#sessionId, options)}#${this.#loads}`;
      // A position that is set before the file is known is where the element begins, so it never shows another one.
      if (position) await this.#seek(position);
      else await this.#event("loadedmetadata");
    } finally {
      this.#isLoading = false;
    }
  }

  async #seek(position) {
    const seeked = this.#event("seeked");
    this.#element.currentTime = position;
    await seeked;
  }

  /** Wait for an event of the element, or for its error. */
  #event(type) {
    const element = this.#element;
    const { signal } = this.#closed;
    return new Promise((resolve, reject) => {
      const done = new AbortController();
      const settle = (act) => () => (done.abort(), act());
      const on = (target, name, act) => target.addEventListener(name, settle(act), { signal: done.signal });
      on(element, type, resolve);
      on(element, "error", () => reject(element.error));
      on(signal, "abort", () => reject(signal.reason));
    });
  }
}
