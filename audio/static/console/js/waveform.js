/**
 * The waveform of a recording: a slider to seek in, which can be zoomed.
 *
 * The server gives the peaks of what is in view, so that an hour costs no more than a minute, and zooming shows samples
 * that an overview does not have. Libraries such as wavesurfer.js need all peaks of a file that does not grow.
 */

import { h } from "./elements.js";
import { length, spoken } from "./words.js";

const BAR_PX = 3;
const GAP_PX = 1;
const LEAST_SPAN_SECONDS = 2;
const STEP_SECONDS = 5;
const LONG_STEP_SECONDS = 60;
const SETTLE_MS = 150;

export class WaveformSlider extends HTMLElement {
  #peaks = null;
  #timer;
  #asked = new AbortController();

  /** The source of peaks: `(start, end, points, signal) => Promise<{minimum, maximum}>`. */
  source = null;
  duration = 0;
  position = 0;
  markers = [];
  view = null;

  connectedCallback() {
    this.canvas = h("canvas");
    this.hover = h("span.hover", { hidden: true });
    this.message = h("span.message");
    this.append(this.canvas, this.message, this.hover);
    for (const [name, value] of Object.entries({ role: "slider", tabindex: "0", "aria-label": "Position", "aria-valuemin": "0" }))
      this.setAttribute(name, value);
    new ResizeObserver(() => this.#resized()).observe(this);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.addEventListener("keydown", (event) => this.#onKey(event));
    this.addEventListener("pointerdown", (event) => this.#onPress(event));
    this.addEventListener("pointermove", (event) => this.#onMove(event));
    this.addEventListener("pointerleave", () => (this.hover.hidden = true));
    this.addEventListener("wheel", (event) => this.#onWheel(event), { passive: false });
    this.#announce();
  }

  /** Show a recording of so many seconds. The part in view is kept if it is a part. */
  setDuration(seconds) {
    this.duration = seconds;
    if (this.view && this.view[1] > seconds) this.view = null;
    this.#announce();
    this.refresh();
  }

  setPosition(seconds) {
    this.position = seconds;
    if (this.view && (seconds < this.view[0] || seconds > this.view[1])) {
      const span = this.view[1] - this.view[0];
      const start = Math.max(0, Math.min(this.duration - span, seconds));
      this.view = [start, start + span];
      this.refresh();
    }
    this.#announce();
    this.draw();
  }

  setMarkers(markers) {
    this.markers = markers;
    this.draw();
  }

  say(text) {
    this.message.textContent = text;
  }

  get span() {
    return this.view ?? [0, this.duration];
  }

  /** Show less time for a factor above 1, more for one below, around the position. */
  zoom(factor, around = this.position) {
    const [start, end] = this.span;
    const span = Math.max(Math.min(LEAST_SPAN_SECONDS, this.duration), (end - start) / factor);
    if (!this.duration) return;
    const share = Math.min(1, Math.max(0, (around - start) / (end - start)));
    const from = Math.max(0, Math.min(this.duration - span, around - share * span));
    this.view = span >= this.duration ? null : [from, from + span];
    this.draw();
    this.refresh();
  }

  /** Get the peaks of what is shown, once it has not changed for a moment. */
  refresh() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#load(), this.#peaks ? SETTLE_MS : 0);
  }

  async #load() {
    const [start, end] = this.span;
    const points = Math.floor(this.clientWidth / (BAR_PX + GAP_PX));
    if (!this.source || !points || end <= start) return;
    this.#asked.abort();
    this.#asked = new AbortController();
    const { signal } = this.#asked;
    const found = await this.source(start, end, points, signal).catch((error) => {
      if (!signal.aborted) this.say(error.message);
      return null;
    });
    if (!found || signal.aborted) return;
    this.say("");
    this.#peaks = { start, end, ...found };
    this.draw();
  }

  #resized() {
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(this.clientWidth * ratio);
    this.canvas.height = Math.round(this.clientHeight * ratio);
    this.draw();
    this.refresh();
  }

  draw() {
    const context = this.canvas.getContext("2d");
    const [width, height] = [this.clientWidth, this.clientHeight];
    const ratio = devicePixelRatio || 1;
    const style = getComputedStyle(this);
    const color = (name) => style.getPropertyValue(name).trim();
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    this.#drawBars(context, width, height, color("--wave"), color("--wave-played"));
    for (const marker of this.markers) this.#drawLine(context, height, marker.position_seconds, color("--warn"), true);
    if (this.duration) this.#drawLine(context, height, this.position, color("--record"), false);
  }

  #drawBars(context, width, height, wave, played) {
    const middle = height / 2;
    if (!this.#peaks) {
      context.fillStyle = wave;
      for (let x = 0; x < width; x += BAR_PX + GAP_PX) context.fillRect(x, middle - 1, BAR_PX, 2);
      return;
    }
    const { start, end, minimum, maximum } = this.#peaks;
    const loudest = Math.max(0.05, ...maximum, ...minimum.map((value) => -value));
    const scale = (0.92 * middle) / loudest;
    const step = (end - start) / maximum.length;
    for (let index = 0; index < maximum.length; index += 1) {
      const at = start + index * step;
      const left = this.#x(at);
      const wide = Math.max(1, this.#x(at + step) - left - GAP_PX);
      if (left + wide < 0 || left > width) continue;
      const top = middle - Math.max(1, maximum[index] * scale);
      const bottom = middle + Math.max(1, -minimum[index] * scale);
      context.fillStyle = at < this.position ? played : wave;
      context.beginPath();
      context.roundRect(left, top, wide, bottom - top, Math.min(wide / 2, 2));
      context.fill();
    }
  }

  #drawLine(context, height, seconds, color, isFlag) {
    if (seconds === null) return;
    const x = Math.round(this.#x(seconds));
    context.fillStyle = color;
    context.fillRect(x - 0.75, 0, 1.5, height);
    if (!isFlag) return;
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x + 10, 4.5);
    context.lineTo(x, 9);
    context.fill();
  }

  #x(seconds) {
    const [start, end] = this.span;
    return ((seconds - start) / (end - start || 1)) * this.clientWidth;
  }

  #secondsAt(event) {
    const box = this.getBoundingClientRect();
    const [start, end] = this.span;
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    return start + share * (end - start);
  }

  #seek(seconds) {
    if (!this.duration) return;
    const detail = Math.max(0, Math.min(this.duration, seconds));
    this.setPosition(detail);
    this.dispatchEvent(new CustomEvent("seek", { detail }));
  }

  #onPress(event) {
    if (event.button !== 0) return;
    this.setPointerCapture(event.pointerId);
    this.#seek(this.#secondsAt(event));
  }

  #onMove(event) {
    const seconds = this.#secondsAt(event);
    if (this.hasPointerCapture(event.pointerId)) this.#seek(seconds);
    this.hover.hidden = !this.duration || event.pointerType === "touch";
    this.hover.textContent = length(seconds);
    const { left } = this.getBoundingClientRect();
    this.hover.style.left = `${Math.min(this.clientWidth - 24, Math.max(24, event.clientX - left))}px`;
  }

  #onWheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.zoom(event.deltaY < 0 ? 1.25 : 0.8, this.#secondsAt(event));
  }

  #onKey(event) {
    const steps = {
      ArrowLeft: -STEP_SECONDS, ArrowDown: -STEP_SECONDS, ArrowRight: STEP_SECONDS, ArrowUp: STEP_SECONDS,
      PageDown: -LONG_STEP_SECONDS, PageUp: LONG_STEP_SECONDS, Home: -Infinity, End: Infinity,
    };
    if (event.key in steps && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      this.#seek(this.position + steps[event.key]);
    }
  }

  #announce() {
    this.setAttribute("aria-valuemax", String(Math.round(this.duration)));
    this.setAttribute("aria-valuenow", String(Math.round(this.position)));
    this.setAttribute("aria-valuetext", `${spoken(this.position)} of ${spoken(this.duration)}`);
  }
}

customElements.define("waveform-slider", WaveformSlider);
