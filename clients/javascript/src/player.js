import { sleep } from "./waiting.js";

const POLL_SECONDS = 1;
/** So much new sound is waited for before it is loaded, because each load is a short interruption. */
const LEAST_NEW_SECONDS = 3;
const LEAST_STEP_SECONDS = 0.1;

/**
 * Plays a session in a media element, also while it is still being recorded.
 *
 * A recording that grows is a file that grows. The element plays what there is, and the file is loaded again at its
 * end. Browsers may stay paused there.
 */
export class LivePlayer extends EventTarget {
  #element;
  #client;
  #sessionId;
  #token;
  #closed = new AbortController();
  #isWaiting = false;
  #loadedBytes = 0;
  #ended = () => this.#follow();

  constructor(element, { client, sessionId, token }) {
    super();
    this.#element = element;
    this.#client = client;
    this.#sessionId = sessionId;
    this.#token = token;
    this.isLive = true;
    element.addEventListener("ended", this.#ended);
  }

  /** Load what there is, and wait for the first sound if there is none yet. */
  async load() {
    await this.#until((session) => session.recording.url !== null || !this.isLive);
    await this.#reload(0);
  }

  seekToLive() {
    const { duration } = this.#element;
    if (Number.isFinite(duration)) this.#element.currentTime = duration;
  }

  close() {
    this.#closed.abort();
    this.#element.removeEventListener("ended", this.#ended);
    this.#element.removeAttribute("src");
    this.#element.load();
  }

  /** The element has played all that it had. Go on with what was recorded meanwhile. */
  async #follow() {
    if (this.#isWaiting) return;
    if (!this.isLive) return this.#complete();
    this.#isWaiting = true;
    const { currentTime } = this.#element;
    this.dispatchEvent(new Event("waiting"));
    try {
      do {
        await this.#until((session) => this.#newSeconds(session, currentTime) >= LEAST_NEW_SECONDS || !this.isLive);
        await this.#reload(currentTime);
        // The session knows of sound that is not in the file yet.
      } while (this.isLive && !this.#hasMore(currentTime) && (await this.#later()));
      if (this.#hasMore(currentTime)) await this.#element.play();
      else this.#complete();
    } catch (error) {
      if (!this.#closed.signal.aborted) this.dispatchEvent(new CustomEvent("error", { detail: error }));
    } finally {
      this.#isWaiting = false;
    }
  }

  #hasMore(position) {
    return this.#element.duration > position + LEAST_STEP_SECONDS;
  }

  async #later() {
    await sleep(POLL_SECONDS, this.#closed.signal);
    return true;
  }

  #complete() {
    this.dispatchEvent(new Event("complete"));
  }

  /** How much there is behind what was played. The seconds of a compressed stream are not known while it grows. */
  #newSeconds({ duration_seconds: seconds, byte_count: bytes }, played) {
    return seconds === null ? (bytes - this.#loadedBytes) * (played / this.#loadedBytes) : seconds - played;
  }

  async #until(isEnough) {
    const { signal } = this.#closed;
    for (;;) {
      const session = await this.#client.sessions.get(this.#sessionId, { signal });
      const { state } = session.recording;
      this.isLive = !["ready", "failed"].includes(state) && !(session.status === "completed" && !session.total_chunks);
      // A recording that is being made cannot be downloaded for a moment.
      if (state !== "building" && isEnough(session)) {
        this.#loadedBytes = session.byte_count;
        return;
      }
      await sleep(POLL_SECONDS, signal);
    }
  }

  async #reload(position) {
    const element = this.#element;
    const loaded = new Promise((resolve, reject) => {
      element.addEventListener("loadedmetadata", resolve, { once: true });
      element.addEventListener("error", () => reject(element.error), { once: true });
    });
    element.src = this.#client.audioUrl(this.#sessionId, { token: this.#token });
    element.load();
    await loaded;
    if (position) element.currentTime = position;
  }
}
