/** The player of a session: buttons and keys for an audio element, even while the session is being recorded. */

import { LivePlayer } from "../../../client/sercuescribe.js";
import { client, explain } from "./api.js";
import { button, h, icon } from "./elements.js";
import { tell } from "./messages.js";
import { addShortcuts } from "./shortcuts.js";
import "./waveform.js";
import * as words from "./words.js";

const SKIP_SECONDS = 15;
const BEHIND_SECONDS = 1;
const SPEEDS = [0.5, 0.75, 1, 1.25, 1.5, 2, 3];
// While a session is being recorded, its waveform is drawn again after this time at the earliest.
const GROW_MS = 2000;
// Every browser plays it.
const FALLBACK = "mp3";

export class Player extends EventTarget {
  #live = null;
  #grownAt = 0;
  #sourceUrl = null;
  #loadedSeconds = 0;

  /**
   * @param {HTMLElement} element - The card that is filled.
   * @param {object} session - The session, which `update` replaces.
   */
  constructor(element, session) {
    super();
    this.session = session;
    this.audio = h("audio", { preload: "metadata" });
    this.wave = document.createElement("waveform-slider");
    this.#fill(element);
    this.wave.source = (start, end, points, signal) => this.#peaks(start, end, points, signal);
    this.wave.addEventListener("seek", ({ detail }) => this.seek(detail));
    for (const type of ["play", "pause", "ended"]) this.audio.addEventListener(type, () => this.#showPlaying());
    this.audio.addEventListener("timeupdate", () => this.#showTime());
    this.audio.addEventListener("durationchange", () => this.#showDuration());
    this.audio.addEventListener("error", () => this.#onError());
    this.#addKeys();
    this.update(session);
  }

  get position() {
    return this.audio.currentTime;
  }

  /** The length of what can be listened to. */
  get duration() {
    return this.session.duration_seconds || this.#loadedSeconds;
  }

  /** Whether it plays, or will play by itself what is being recorded. */
  get #isPlaying() {
    return !this.audio.paused || Boolean(this.#live?.isWaiting);
  }

  /** Show the new state of the session. */
  update(session) {
    this.session = session;
    const source = this.#source();
    if (source !== this.#sourceUrl) this.#load(source);
    this.toLive.hidden = !words.isOpen(session);
    this.controls.toggleAttribute("inert", !source);
    this.#showDuration();
    this.#showMessage();
  }

  /** Stop for good. */
  close() {
    this.#live?.close();
    this.audio.pause();
  }

  toggle() {
    if (!this.#sourceUrl) return;
    const player = this.#live ?? this.audio;
    if (this.#isPlaying) player.pause();
    else player.play().catch((error) => error.name === "AbortError" || tell(`It can't be played: ${error.message}`));
    this.#showPlaying();
  }

  async seek(seconds) {
    const end = () => (Number.isFinite(this.audio.duration) ? this.audio.duration : Infinity);
    const wasPlaying = this.#isPlaying;
    const isLoaded = seconds <= end();
    // What was recorded after the file was loaded is in a newer file. At the very end a player would begin anew.
    if (this.#live && !isLoaded) await this.#live.load().catch(() => null);
    this.audio.currentTime = Math.max(0, Math.min(isLoaded ? end() : end() - BEHIND_SECONDS, seconds));
    if (wasPlaying && this.audio.paused) this.audio.play().catch(() => null);
    this.#showTime();
  }

  skip(seconds) {
    this.seek(this.position + seconds);
  }

  faster(step) {
    const index = SPEEDS.indexOf(this.audio.playbackRate) + step;
    if (index in SPEEDS) this.#setSpeed(SPEEDS[index]);
  }

  setMarkers(markers) {
    this.wave.setMarkers(markers);
  }

  /** Return the URL of what can be played now; null if there is nothing. */
  #source() {
    const { recording, session_id: id } = this.session;
    if (recording.state === "ready") return client.audioUrl(id);
    if (recording.state === "live" && (this.duration > 0 || recording.url)) return "live";
    return recording.state === "failed" && recording.partial_url ? client.audioUrl(id, { partial: true }) : null;
  }

  #load(source) {
    const { currentTime } = this.audio;
    const hadSource = Boolean(this.#sourceUrl);
    this.#sourceUrl = source;
    // A player that follows a session plays on, and finds out by itself that the recording is complete.
    if (hadSource && this.#live && this.#isPlaying) return;
    this.#live?.close();
    this.#live = null;
    if (source === "live") {
      this.#live = new LivePlayer(this.audio, { client, sessionId: this.session.session_id });
      this.#live.addEventListener("error", ({ detail }) => tell(explain(detail)));
      for (const type of ["waiting", "complete", "error"]) this.#live.addEventListener(type, () => this.#showPlaying());
      this.#live.load().catch(() => null);
    } else if (source) {
      this.audio.src = source;
      if (currentTime) this.audio.currentTime = currentTime;
    }
  }

  async #peaks(start, end, points, signal) {
    const { recording, session_id: id } = this.session;
    const options = { start, end, points, signal };
    if (recording.state === "ready") {
      const timer = setTimeout(() => this.wave.say("The waveform is being computed…"), 1000);
      return client.waveform(id, options).finally(() => clearTimeout(timer));
    }
    if (recording.state !== "live") return null;
    const query = { start, end, points };
    return client.request("GET", `/api/audio/sessions/${id}/waveform`, { query, signal }).catch(() => null);
  }

  #fill(element) {
    const control = (name, label, act, classes = "plain.icon-only") =>
      button(classes, { "aria-label": label, title: label, onclick: act }, icon(name));
    this.playButton = control("play", "Play", () => this.toggle(), "primary.icon-only.to-play");
    this.toLive = button("small.to-live", { onclick: () => this.#goLive() }, icon("live"), "Live");
    this.speed = h("select", { "aria-label": "Speed", onchange: () => this.#setSpeed(Number(this.speed.value)) },
      ...SPEEDS.map((speed) => h("option", { value: speed, selected: speed === 1 }, `${speed}×`)));
    this.time = h("span.time", {});
    this.controls = h("div.controls", {},
      h("div.times", {}, this.time, this.toLive),
      h("div.transport", {},
        control("back", `Back ${SKIP_SECONDS} seconds`, () => this.skip(-SKIP_SECONDS)),
        this.playButton,
        control("forward", `Forward ${SKIP_SECONDS} seconds`, () => this.skip(SKIP_SECONDS))),
      h("div.view", {},
        this.speed,
        control("zoom-out", "Zoom out", () => this.wave.zoom(1 / 2)),
        control("zoom-in", "Zoom in", () => this.wave.zoom(2))));
    element.replaceChildren(this.wave, this.controls, this.audio);
  }

  #addKeys() {
    addShortcuts("Player", [
      [[" ", "p"], "Play or pause", () => this.toggle()],
      [["ArrowLeft"], "Back 5 seconds", () => this.skip(-5)],
      [["ArrowRight"], "Forward 5 seconds", () => this.skip(5)],
      [["h"], `Back ${SKIP_SECONDS} seconds`, () => this.skip(-SKIP_SECONDS)],
      [["l"], `Forward ${SKIP_SECONDS} seconds`, () => this.skip(SKIP_SECONDS)],
      [["<"], "Slower", () => this.faster(-1)],
      [[">"], "Faster", () => this.faster(1)],
      [["+"], "Zoom in", () => this.wave.zoom(2)],
      [["-"], "Zoom out", () => this.wave.zoom(1 / 2)],
    ]);
  }

  /** Play the newest sound. */
  async #goLive() {
    await this.#live?.seekToLive().catch(() => null);
    this.audio.play().catch(() => null);
  }

  #setSpeed(speed) {
    this.audio.playbackRate = this.audio.defaultPlaybackRate = speed;
    this.speed.value = String(speed);
  }

  #showPlaying() {
    const isPlaying = this.#isPlaying;
    const label = isPlaying ? "Pause" : "Play";
    this.playButton.replaceChildren(icon(isPlaying ? "pause" : "play"));
    this.playButton.setAttribute("aria-label", label);
    this.playButton.title = label;
    if (isPlaying) this.#follow();
  }

  /** Move the position smoothly while it plays. `timeupdate` comes four times a second only. */
  #follow() {
    if (this.audio.paused) return;
    this.#showTime();
    requestAnimationFrame(() => this.#follow());
  }

  #showTime() {
    const shown = `${words.length(this.position)} / ${words.length(this.duration)}`;
    if (this.time.textContent !== shown) this.time.textContent = shown;
    if (this.wave.position !== this.position) this.wave.setPosition(this.position);
  }

  #showDuration() {
    if (Number.isFinite(this.audio.duration)) this.#loadedSeconds = this.audio.duration;
    const isDue = !words.isOpen(this.session) || Date.now() - this.#grownAt >= GROW_MS;
    if (this.duration !== this.wave.duration && isDue) {
      this.#grownAt = Date.now();
      this.wave.setDuration(this.duration);
    }
    this.#showTime();
  }

  #showMessage() {
    const { recording, total_chunks: chunks } = this.session;
    const said = {
      empty: words.isOpen(this.session) ? "Nothing has been recorded yet." : chunks ? "The recording is being made…" : "Nothing was recorded.",
      building: `The recording is being made… ${Math.round(100 * recording.progress)} %`,
      failed: recording.partial_url ? "" : "There is nothing to listen to.",
      live: this.duration ? "" : "You can listen to the recording in a moment.",
    };
    this.wave.say(said[recording.state] ?? "");
  }

  async #onError() {
    const { state } = this.session.recording;
    if (!this.audio.error || this.audio.error.code !== MediaError.MEDIA_ERR_SRC_NOT_SUPPORTED || state !== "ready") return;
    if (this.#sourceUrl !== client.audioUrl(this.session.session_id)) return;
    this.wave.say("This browser cannot play the format. The server is making an MP3…");
    try {
      this.#sourceUrl = this.audio.src = await client.prepare(this.session.session_id, FALLBACK);
      this.wave.say("");
    } catch (error) {
      this.wave.say(explain(error));
    }
  }
}
