/** <scribe-live-waveform>: the sound of the last seconds, drawn as it comes. */

const BAR_PX = 3;
const GAP_PX = 2;
const STILL_MS = 1000;

export class LiveWaveform extends HTMLElement {
  #peaks = [];
  #canvas = document.createElement("canvas");
  #frame = null;
  #drawnAt = 0;
  #isStill = matchMedia("(prefers-reduced-motion: reduce)");

  connectedCallback() {
    this.append(this.#canvas);
    new ResizeObserver(() => this.#draw()).observe(this);
  }

  /** Add the newest peak, from 0 to 1. */
  add(peak) {
    this.#peaks.push(peak);
    if (this.#peaks.length > 2000) this.#peaks.splice(0, 1000);
    // Whoever wants less motion sees the waveform once a second.
    if (this.#isStill.matches && performance.now() - this.#drawnAt < STILL_MS) return;
    this.#frame ??= requestAnimationFrame(() => this.#draw());
  }

  clear() {
    this.#peaks = [];
    this.#draw();
  }

  #draw() {
    this.#frame = null;
    this.#drawnAt = performance.now();
    const { clientWidth: width, clientHeight: height } = this;
    const ratio = devicePixelRatio;
    Object.assign(this.#canvas, { width: width * ratio, height: height * ratio });
    const context = this.#canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.fillStyle = getComputedStyle(this).color;
    const count = Math.floor(width / (BAR_PX + GAP_PX));
    const shown = this.#peaks.slice(-count);
    for (let at = 0; at < count; at += 1) {
      const peak = shown[at - (count - shown.length)] ?? 0;
      // Speech is quiet: the square root shows it as people hear it.
      const bar = Math.max(2, Math.sqrt(peak) * height);
      context.fillRect(at * (BAR_PX + GAP_PX), (height - bar) / 2, BAR_PX, bar);
    }
  }
}

customElements.define("scribe-live-waveform", LiveWaveform);
