/**
 * The processor that turns the microphone's samples into chunks of 16 bits. It runs in the thread of the audio, and is
 * loaded as a file of its own, because a Content-Security-Policy may forbid scripts from blobs.
 */

const LEVEL_FRAMES = 2048;
const FULL_SCALE = 0x8000;

class PcmCapture extends AudioWorkletProcessor {
  constructor({ processorOptions: { channels, chunkFrames } }) {
    super();
    this.channels = channels;
    this.samples = new Int16Array(channels * chunkFrames);
    this.filled = 0;
    this.isPaused = false;
    this.isStopped = false;
    this.startLevel();
    this.port.onmessage = ({ data }) => this[data]();
  }

  startLevel() {
    this.levelFrames = this.peak = this.squares = 0;
  }

  pause() {
    this.flush();
    this.isPaused = true;
  }

  resume() {
    this.isPaused = false;
  }

  stop() {
    this.flush();
    this.isStopped = true;
    this.port.postMessage({ stopped: true });
  }

  flush() {
    if (!this.filled) return;
    const chunk = this.samples.slice(0, this.filled).buffer;
    this.port.postMessage({ chunk }, [chunk]);
    this.filled = 0;
  }

  process([input]) {
    if (this.isStopped) return false;
    if (input.length) {
      this.measure(input);
      if (!this.isPaused) this.take(input);
    }
    return true;
  }

  take(input) {
    const { channels, samples } = this;
    for (let frame = 0; frame < input[0].length; frame += 1) {
      for (let channel = 0; channel < channels; channel += 1) {
        const value = Math.round(FULL_SCALE * (input[channel] ?? input[0])[frame]);
        samples[this.filled] = Math.max(-FULL_SCALE, Math.min(FULL_SCALE - 1, value));
        this.filled += 1;
      }
      if (this.filled === samples.length) this.flush();
    }
  }

  measure(input) {
    for (const value of input[0]) {
      this.peak = Math.max(this.peak, Math.abs(value));
      this.squares += value * value;
    }
    this.levelFrames += input[0].length;
    if (this.levelFrames < LEVEL_FRAMES) return;
    this.port.postMessage({ level: { peak: Math.min(1, this.peak), rms: Math.sqrt(this.squares / this.levelFrames) } });
    this.startLevel();
  }
}

registerProcessor("sercuescribe-pcm", PcmCapture);
