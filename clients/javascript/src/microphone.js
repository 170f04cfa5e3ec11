import { ScribeError } from "./errors.js";
import { sleep } from "./waiting.js";

/** The sample rates that the server records. */
const SAMPLE_RATES_HZ = [
  8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 176400, 192000,
];
const FALLBACK_HZ = 48000;
/** What a MediaRecorder may make, in the order of preference, and the format that the server calls it. */
const COMPRESSED = [
  ["audio/webm;codecs=opus", "webm"],
  ["audio/mp4;codecs=mp4a.40.2", "mp4"],
  ["audio/mp4", "mp4"],
  ["audio/ogg;codecs=opus", "ogg"],
  ["audio/webm", "webm"],
];
const PCM_CHUNK_MS = 100;
const COMPRESSED_CHUNK_MS = 250;
const LEVEL_MS = 50;
/** A context that has not begun by then waits for the person to touch the page. */
const START_SECONDS = 3;

/** A device that has just begun gives silence at first, and then sound with gaps. */
const SILENT_SECONDS = 0.5;
const SETTLING_SECONDS = 0.25;

const REASONS = {
  NotAllowedError: ["permission_denied", "The page may not use the microphone."],
  SecurityError: ["permission_denied", "The page may not use the microphone."],
  NotFoundError: ["no_microphone", "There is no microphone."],
  OverconstrainedError: ["no_microphone", "This microphone is not there any more."],
  NotReadableError: ["microphone_busy", "The microphone cannot be used now. Another program may be using it."],
  AbortError: ["microphone_busy", "The microphone cannot be used now. Another program may be using it."],
};

/** A microphone: chunks of PCM (AudioWorklet) or of a compressed stream (MediaRecorder). */
export class Microphone extends EventTarget {
  #capture;
  #isPaused = false;
  #isStarted = false;
  #stopped = null; // a promise, once it was told to stop
  #wakeLock = null;
  #keepAwake = () => document.visibilityState === "visible" && this.#lockScreen();

  static isSupported() {
    return Boolean(globalThis.navigator?.mediaDevices?.getUserMedia);
  }

  static async devices() {
    if (!navigator.mediaDevices) return [];
    return (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "audioinput");
  }

  static async open({ mode = "auto", ...options } = {}) {
    if (!Microphone.isSupported()) {
      const sentence = globalThis.isSecureContext
        ? "This browser cannot record."
        : "Browsers only record on pages that came over HTTPS, or from this machine.";
      throw new ScribeError("unsupported", sentence);
    }
    const hasPcm = Boolean(globalThis.AudioWorkletNode);
    const isPcm = mode === "pcm" || (mode === "auto" && hasPcm);
    if (isPcm && !hasPcm) throw new ScribeError("unsupported", "This browser has no AudioWorklet.");
    const stream = await requested(options);
    try {
      return new Microphone(stream, isPcm ? await PcmCapture.open(stream, options) : new Compressed(stream, options));
    } catch (error) {
      for (const track of stream.getTracks()) track.stop();
      throw error;
    }
  }

  /** Pages call `Microphone.open`. */
  constructor(stream, capture) {
    super();
    this.stream = stream;
    this.level = { peak: 0, rms: 0 };
    this.isLost = false;
    this.#capture = capture;
    this.mode = capture.mode;
    this.parameters = capture.parameters;
    capture.onchunk = (chunk) => this.dispatchEvent(new CustomEvent("chunk", { detail: chunk }));
    capture.onlevel = (level) => {
      this.level = level;
      this.dispatchEvent(new CustomEvent("level", { detail: level }));
    };
    capture.onlost = () => this.#lose();
    const [track] = stream.getAudioTracks();
    track.addEventListener("ended", () => this.#lose());
    for (const type of ["mute", "unmute"]) track.addEventListener(type, () => this.dispatchEvent(new Event(type)));
  }

  get deviceId() {
    return this.stream.getAudioTracks()[0].getSettings().deviceId ?? "";
  }

  get label() {
    return this.stream.getAudioTracks()[0].label;
  }

  get isRecording() {
    return this.#isStarted && !this.#isPaused && !this.#stopped && !this.isLost;
  }

  /** Begin to give sound. A microphone that was paused before gives its first sound when it is resumed. */
  async start() {
    await this.#capture.start();
    if (this.#stopped) return;
    this.#isStarted = true;
    if (this.isRecording) this.#capture.resume();
    document.addEventListener("visibilitychange", this.#keepAwake);
    await this.#lockScreen();
  }

  pause() {
    this.#isPaused = true;
    this.#capture.pause();
  }

  resume() {
    this.#isPaused = false;
    if (this.isRecording) this.#capture.resume();
  }

  stop() {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop() {
    document.removeEventListener("visibilitychange", this.#keepAwake);
    await this.#capture.stop();
    await this.#unlockScreen();
    for (const track of this.stream.getTracks()) track.stop();
  }

  /** Give what was heard. A track that has ended would be silence. */
  #lose() {
    if (this.isLost || this.#stopped) return;
    this.isLost = true;
    this.#capture.pause();
    this.dispatchEvent(new Event("lost"));
  }

  /** A phone that falls asleep stops recording. The lock ends whenever the page is hidden. */
  async #lockScreen() {
    if (this.#wakeLock?.released === false) return;
    this.#wakeLock = (await navigator.wakeLock?.request("screen").catch(() => null)) ?? null;
    // The browser may have needed so long that there is nothing to keep awake any more.
    if (this.#stopped) await this.#unlockScreen();
  }

  async #unlockScreen() {
    await this.#wakeLock?.release().catch(() => undefined);
  }
}

async function requested({ deviceId, processing = false, channels = 1 }) {
  const audio = {
    ...(deviceId && { deviceId: { exact: deviceId } }),
    channelCount: { ideal: channels },
    echoCancellation: processing,
    noiseSuppression: processing,
    autoGainControl: processing,
  };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    const [code, sentence] = REASONS[error.name] ?? ["microphone_busy", `The microphone cannot be used: ${error.message}`];
    throw new ScribeError(code, sentence, { cause: error });
  }
}

/** Samples of 16 bits from an AudioWorklet. */
class PcmCapture {
  mode = "pcm";
  #context;
  #node;
  #hasSound = false;

  static async open(stream, { channels = 1, sampleRate, chunkMs = PCM_CHUNK_MS }) {
    const context = contextFor(stream, sampleRate);
    await context.audioWorklet.addModule(new URL("./worklet.js", import.meta.url));
    return new PcmCapture(context, stream, channels, chunkMs);
  }

  constructor(context, stream, channels, chunkMs) {
    this.#context = context;
    this.parameters = { format: "wav", encoding: "s16le", sample_rate: context.sampleRate, channels };
    this.#node = new AudioWorkletNode(context, "sercuescribe-pcm", {
      numberOfInputs: 1,
      numberOfOutputs: 1,
      channelCount: channels,
      channelCountMode: "explicit",
      processorOptions: { channels, chunkFrames: Math.round((context.sampleRate * chunkMs) / 1000) },
    });
    this.#node.port.onmessage = ({ data }) => {
      if (data.chunk) this.onchunk(data.chunk);
      if (data.level) {
        this.#hasSound ||= data.level.peak > 0;
        this.onlevel(data.level);
      }
    };
    this.#node.port.postMessage("pause");
    // The output is silent. A node without a way to the destination may not be processed.
    context.createMediaStreamSource(stream).connect(this.#node).connect(context.destination);
    context.addEventListener("statechange", () => this.#resumeContext());
  }

  async start() {
    await begun(this.#context);
    const deadline = performance.now() + 1000 * SILENT_SECONDS;
    while (!this.#hasSound && performance.now() < deadline) await sleep(SETTLING_SECONDS / 10);
    await sleep(SETTLING_SECONDS);
  }

  pause() {
    this.#node.port.postMessage("pause");
  }

  resume() {
    this.#node.port.postMessage("resume");
  }

  async stop() {
    const stopped = new Promise((resolve) => {
      this.#node.port.addEventListener("message", ({ data }) => data.stopped && resolve());
    });
    this.#node.port.postMessage("stop");
    // A context that the system has suspended answers nothing, and has nothing more to give.
    await Promise.race([stopped, new Promise((resolve) => setTimeout(resolve, 1000))]);
    await this.#context.close();
  }

  /** A phone call suspends the context of a page, and nobody resumes it. */
  #resumeContext() {
    if (["suspended", "interrupted"].includes(this.#context.state)) this.#context.resume().catch(() => undefined);
  }
}

/** Return a context with the rate of the microphone, so that nothing is resampled where the browser allows that. */
function contextFor(stream, sampleRate) {
  const own = sampleRate ?? stream.getAudioTracks()[0].getSettings().sampleRate;
  if (SAMPLE_RATES_HZ.includes(own)) {
    try {
      return new AudioContext({ sampleRate: own, latencyHint: "playback" });
    } catch (error) {
      if (sampleRate) throw new ScribeError("unsupported", `This browser cannot record ${sampleRate} Hz.`, { cause: error });
    }
  }
  const context = new AudioContext({ latencyHint: "playback" });
  if (SAMPLE_RATES_HZ.includes(context.sampleRate)) return context;
  context.close();
  return new AudioContext({ sampleRate: FALLBACK_HZ, latencyHint: "playback" });
}

/** Wait until a context runs. Some browsers let it wait for a click or a key. */
async function begun(context) {
  if (context.state === "running") return;
  const late = new Promise((_, reject) => {
    const error = new ScribeError("gesture_needed", "The browser begins to record when the person clicks or presses a key.");
    setTimeout(() => reject(error), 1000 * START_SECONDS);
  });
  await Promise.race([context.resume(), late]);
}

/** The slices of a MediaRecorder. */
class Compressed {
  mode = "compressed";
  #media;
  #chunkMs;
  #meter;
  #isStarted = false;
  #ended;

  constructor(stream, { chunkMs = COMPRESSED_CHUNK_MS, bitRate }) {
    const found = COMPRESSED.find(([type]) => globalThis.MediaRecorder?.isTypeSupported(type));
    if (!found) throw new ScribeError("unsupported", "This browser records no format that the server knows.");
    const [mimeType, format] = found;
    this.parameters = { format };
    this.#chunkMs = chunkMs;
    this.#media = new MediaRecorder(stream, { mimeType, ...(bitRate && { audioBitsPerSecond: bitRate }) });
    this.#media.ondataavailable = ({ data }) => data.size && this.onchunk(data);
    this.#media.onerror = () => this.onlost();
    // It also ends by itself when its device has gone, and gives its last slice before.
    this.#ended = new Promise((resolve) => this.#media.addEventListener("stop", resolve, { once: true }));
    this.#meter = new Meter(stream, (level) => this.onlevel(level));
  }

  async start() {}

  pause() {
    if (this.#media.state === "recording") this.#media.pause();
  }

  resume() {
    this.#isStarted = true;
    if (this.#media.state === "inactive") this.#media.start(this.#chunkMs);
    else if (this.#media.state === "paused") this.#media.resume();
  }

  async stop() {
    this.#meter.stop();
    if (!this.#isStarted) return;
    if (this.#media.state !== "inactive") this.#media.stop();
    await this.#ended;
  }
}

/** The level of a stream that is not read sample by sample. Without AudioContext there is none. */
class Meter {
  #context;
  #timer;

  constructor(stream, onlevel) {
    if (!globalThis.AudioContext) return;
    this.#context = new AudioContext();
    const analyser = new AnalyserNode(this.#context, { fftSize: 2048 });
    this.#context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    this.#timer = setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      let peak = 0;
      let squares = 0;
      for (const value of samples) {
        peak = Math.max(peak, Math.abs(value));
        squares += value * value;
      }
      onlevel({ peak: Math.min(1, peak), rms: Math.sqrt(squares / samples.length) });
    }, LEVEL_MS);
  }

  stop() {
    clearInterval(this.#timer);
    this.#context?.close();
  }
}
