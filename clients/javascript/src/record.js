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
  #since = null; // when it began to count, in milliseconds; null while it is paused

  constructor(microphone, recorder) {
    this.recorder = recorder;
    this.#attach(microphone);
    // Nothing more can be uploaded by a recorder that has failed. What it has is in the queue.
    recorder.addEventListener("error", () => this.microphone.stop(), { once: true });
  }

  /** Begin to count when the microphone does. */
  async start() {
    await this.microphone.start();
    this.#since = performance.now();
  }

  get seconds() {
    return (this.#milliseconds + (this.#since === null ? 0 : performance.now() - this.#since)) / 1000;
  }

  get isPaused() {
    return this.#since === null;
  }

  marker(label) {
    return this.recorder.marker(label);
  }

  pause() {
    if (this.isPaused) return;
    this.#halt();
    this.microphone.pause();
    this.recorder.pause();
  }

  resume() {
    if (!this.isPaused) return;
    this.#since = performance.now();
    this.recorder.resume();
    this.microphone.resume();
  }

  /** Go on with another microphone, of which the same is recorded. */
  async switchTo(options = {}) {
    const next = await Microphone.open({ ...options, ...modeOf(this.microphone.parameters) });
    await this.microphone.stop();
    this.#attach(next);
    await next.start();
    if (this.isPaused) next.pause();
  }

  async stop() {
    this.#halt();
    await this.microphone.stop();
    return this.recorder.close();
  }

  #attach(microphone) {
    this.microphone = microphone;
    // Errors of the queue are told by the recorder's events.
    microphone.addEventListener("chunk", ({ detail }) => this.recorder.send(detail).catch(() => undefined));
  }

  #halt() {
    if (this.#since !== null) this.#milliseconds += performance.now() - this.#since;
    this.#since = null;
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
