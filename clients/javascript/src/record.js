import { IndexedDbQueue } from "./indexeddb.js";
import { Microphone } from "./microphone.js";
import { FileQueue, MemoryQueue } from "./queue.js";
import { Recorder } from "./recorder.js";

/** Record a microphone. Chunks wait in IndexedDB where the browser has it. */
export async function record({ leftover, name, metadata, parameters = {}, queue, ...options } = {}) {
  const { server, token, headers, sessionId, source, ...microphoneOptions } = options;
  if (leftover) Object.assign(microphoneOptions, modeOf(leftover.parameters));
  const microphone = await Microphone.open(microphoneOptions);
  const recorder = leftover
    ? leftover.resume({ token, headers, sessionId })
    : new Recorder({
        ...{ server, token, headers, sessionId, source },
        parameters: { ...parameters, ...(name && { name }), ...(metadata && { metadata }), ...microphone.parameters },
        queue: queue ?? (IndexedDbQueue.isSupported() ? new IndexedDbQueue() : new MemoryQueue()),
      });
  const recording = new LiveRecording(microphone, recorder);
  try {
    await recording.start();
  } catch (error) {
    await microphone.stop();
    recorder.abort();
    throw error;
  }
  return recording;
}

/** A session has one format, so what goes on after a reload must be of the same kind. */
function modeOf({ encoding, sample_rate, channels }) {
  return encoding ? { mode: "pcm", sampleRate: sample_rate, channels } : { mode: "compressed" };
}

/** A microphone and its recorder. */
class LiveRecording {
  #milliseconds = 0;
  #since = null; // when it began to count, in milliseconds; null while nothing is recorded
  #isPaused = false;
  #isStopped = false;
  #given = null; // a promise: the microphone before has given all its chunks
  #switched = Promise.resolve();

  constructor(microphone, recorder) {
    this.recorder = recorder;
    this.#attach(microphone);
    // Nothing more can be uploaded by a recorder that has failed. What it has is in the queue.
    recorder.addEventListener("error", () => this.#stopMicrophone(), { once: true });
  }

  /** Begin to count when the microphone does. */
  async start() {
    await this.microphone.start();
    this.#count();
  }

  get seconds() {
    return (this.#milliseconds + (this.#since === null ? 0 : performance.now() - this.#since)) / 1000;
  }

  get isPaused() {
    return this.#isPaused;
  }

  /** Whether the microphone has gone. `switchTo` goes on with another one, and `stop` ends the recording. */
  get isLost() {
    return this.microphone.isLost;
  }

  marker(label) {
    return this.recorder.marker(label);
  }

  pause() {
    if (this.#isPaused) return;
    this.#isPaused = true;
    this.#count();
    this.microphone.pause();
    this.recorder.pause();
  }

  resume() {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    this.recorder.resume();
    this.microphone.resume();
    this.#count();
  }

  /** Go on with another microphone, of which the same is recorded. The old one is heard until the new one is ready. */
  switchTo(options = {}) {
    const switched = this.#switched.then(() => this.#switchTo(options));
    this.#switched = switched.catch(() => undefined);
    return switched;
  }

  async #switchTo(options) {
    const next = await Microphone.open({ ...options, ...modeOf(this.microphone.parameters) });
    next.pause();
    try {
      await next.start();
    } catch (error) {
      await next.stop();
      throw error;
    }
    if (this.#isStopped) return next.stop();
    const previous = this.microphone;
    const given = previous.stop();
    this.#attach(next, given);
    if (!this.#isPaused) next.resume();
    this.#count();
    await given;
  }

  async stop() {
    await this.#stopMicrophone();
    return this.recorder.close();
  }

  async #stopMicrophone() {
    this.#isStopped = true;
    this.#count();
    await this.microphone.stop();
    // Its chunks wait for those of the microphone before.
    await this.#given;
  }

  /** Send what a microphone gives, behind what the one before has given. */
  #attach(microphone, given = Promise.resolve()) {
    this.microphone = microphone;
    this.#given = given;
    microphone.addEventListener("chunk", async ({ detail }) => {
      await given;
      // Errors of the queue are told by the recorder's events.
      await this.recorder.send(detail).catch(() => undefined);
    });
    microphone.addEventListener("lost", () => this.#count());
  }

  /** Count while something is recorded. */
  #count() {
    const now = performance.now();
    if (this.#since !== null) this.#milliseconds += now - this.#since;
    this.#since = this.#isPaused || this.#isStopped || this.isLost ? null : now;
  }
}

/** Stream a file as a session. */
export async function upload(file, { signal, onProgress, chunkSizeBytes, parameters = {}, ...options } = {}) {
  const queue = new FileQueue(file, { chunkSizeBytes });
  const recorder = new Recorder({ ...options, parameters: { name: file.name || undefined, ...parameters }, queue });
  signal?.addEventListener("abort", () => recorder.abort(), { once: true });
  if (signal?.aborted) recorder.abort();
  recorder.addEventListener("progress", ({ detail }) => {
    onProgress?.(file.size ? 1 - detail.pendingBytes / file.size : 1);
  });
  return recorder.close();
}
