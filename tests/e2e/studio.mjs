// A page that records its microphone with the JavaScript client, keeps what it sent, and plays recordings.
import { Recorder } from "/client/sercuescribe.js";

const sockets = [];
window.WebSocket = class extends WebSocket {
  constructor(...address) {
    super(...address);
    sockets.push(this);
  }
};

const MICROPHONE = { channelCount: 2, echoCancellation: false, noiseSuppression: false, autoGainControl: false };

const event = (target, name) =>
  new Promise((resolve, reject) => {
    target.addEventListener(name, resolve, { once: true });
    target.addEventListener("error", () => reject(new Error(target.error?.message ?? name)), { once: true });
  });

const base64 = async (blob) => {
  const reader = new FileReader();
  reader.readAsDataURL(blob);
  await event(reader, "load");
  return reader.result.split(",")[1] ?? "";
};

window.studio = {
  sent: [], // Blobs, the empty ones too

  async open(parameters) {
    this.microphone = await navigator.mediaDevices.getUserMedia({ audio: MICROPHONE });
    const sample_rate = this.microphone.getAudioTracks()[0].getSettings().sampleRate;
    this.recorder = new Recorder({ parameters: { sample_rate, channels: 2, ...parameters } });
  },

  take(blob) {
    this.sent.push(blob);
    this.recorder.send(blob);
  },

  /** Starts a MediaRecorder that gives a slice every so many milliseconds. */
  record(mimeType, sliceMs) {
    const media = new MediaRecorder(this.microphone, { mimeType, audioBitsPerSecond: 64000 });
    media.ondataavailable = ({ data }) => this.take(data);
    media.start(sliceMs);
    this.stop = async () => {
      media.stop();
      await event(media, "stop");
    };
  },

  /** Sends the microphone's own 16-bit samples, without a MediaRecorder. */
  recordSamples() {
    const [track] = this.microphone.getAudioTracks();
    const reader = new MediaStreamTrackProcessor({ track }).readable.getReader();
    const read = async () => {
      for (let { value } = await reader.read(); value; { value } = await reader.read()) {
        const samples = new Int16Array(value.numberOfFrames * value.numberOfChannels);
        value.copyTo(samples, { planeIndex: 0, format: "s16" });
        value.close();
        this.take(new Blob([samples]));
      }
    };
    const reading = read();
    this.stop = () => (track.stop(), reading);
  },

  /** Loses the connection as a network would. */
  drop() {
    sockets.at(-1).close();
  },

  close() {
    return this.recorder.close();
  },

  messages() {
    return Promise.all(this.sent.map(base64));
  },

  /** Plays from the middle, and the end; returns what the element told, in seconds. */
  async play(url) {
    const audio = new Audio(url);
    await event(audio, "loadedmetadata");
    const { duration } = audio;
    await audio.play();
    audio.currentTime = duration / 2;
    await event(audio, "seeked");
    const middle = audio.currentTime;
    while (audio.currentTime < middle + 0.3) await event(audio, "timeupdate");
    audio.currentTime = duration - 0.3;
    await event(audio, "ended");
    return { duration, middle, end: audio.currentTime };
  },
};
