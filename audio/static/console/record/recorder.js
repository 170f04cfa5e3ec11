/** <scribe-recorder>: the page that records. */

import { Microphone, record } from "../../../client/sercuescribe.js";
import "./leftovers.js";
import "./live-waveform.js";
import { client, headers, keepOpen, linkTo, queue } from "./server.js";
import { button } from "./uploads.js";
import { amount, clock, reason } from "./words.js";

const TICK_MS = 250;
const LETTING_GO_MS = 3000;
/** Chunks that are being sent are not shown. */
const LEAST_KEPT_SECONDS = 2;
/** The key that marks a recording of this tab, which continues after a reload. */
const RECORDING = "sercuescribe.recording";

const STATES = {
  connecting: "Recording. Connecting to the server.",
  recording: "Recording.",
  offline: "The network is away. Recording continues, and the sound is kept in this browser.",
  paused: "Paused.",
  lost: "The microphone was disconnected. Connect or choose one and press Resume, or press Stop to save what was recorded.",
  closing: "Saving.",
};

export class RecorderPage extends HTMLElement {
  #live = null;
  #leftover = null;
  #timer = null;
  #earlierSeconds = 0; // of this recording, from before a reload
  #savedName = ""; // as the server has it
  #unsavedName = false;

  connectedCallback() {
    this.#part(".start").addEventListener("click", () => this.start());
    this.#part(".stop").addEventListener("click", () => this.stop());
    this.#part(".pause").addEventListener("click", () => this.togglePause());
    this.#part(".mark").addEventListener("submit", (event) => this.#mark(event));
    this.#part(".name").addEventListener("change", () => this.#rename());
    this.#part(".device").addEventListener("change", () => this.#changeDevice());
    addEventListener("keydown", (event) => this.#key(event));
    navigator.mediaDevices?.addEventListener("devicechange", () => this.#listDevices());
    this.#listDevices();
    this.#restore();
  }

  get #seconds() {
    return this.#earlierSeconds + this.#live.seconds;
  }

  #part(selector) {
    return this.querySelector(selector);
  }

  // Begin.

  async start() {
    if (this.#live || this.#part(".start").disabled) return;
    this.#part(".start").disabled = true;
    this.#say("Allow the microphone, if the browser asks.", "asking");
    try {
      this.#adopt(await record(this.#options()));
    } catch (error) {
      this.#say(reason(error), "problem");
    } finally {
      this.#part(".start").disabled = false;
    }
  }

  #options() {
    const project = this.#part(".project")?.value;
    return {
      headers,
      ...(queue && { queue }),
      ...(this.#part(".device").value && { deviceId: this.#part(".device").value }),
      ...(this.#part(".name").value && { name: this.#part(".name").value }),
      ...(project && { parameters: { project } }),
      ...(this.#leftover && { leftover: this.#leftover }),
    };
  }

  #adopt(live) {
    this.#live = live;
    this.#savedName = this.#leftover ? (this.#leftover.parameters.name ?? "") : this.#part(".name").value;
    this.#leftover = null;
    live.recorder.addEventListener("state", () => this.#show());
    live.recorder.addEventListener("session", () => this.#rename());
    live.recorder.addEventListener("warning", ({ detail }) => this.#say(detail.message));
    live.recorder.addEventListener("error", ({ detail }) => this.#failed(detail));
    this.#listen();
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    keepOpen(this, true);
    this.#part("scribe-leftovers").refresh();
    this.#part("scribe-live-waveform").clear();
    this.#part(".markers").replaceChildren();
    this.#part(".result").hidden = true;
    this.#listDevices();
    this.#show();
    this.#part(".stop").focus();
  }

  #listen() {
    const { microphone } = this.#live;
    microphone.addEventListener("level", ({ detail }) => this.#showLevel(detail));
    microphone.addEventListener("lost", () => this.#replace());
  }

  // While it records.

  togglePause() {
    if (!this.#live) return;
    if (this.#live.isLost) return void this.#changeDevice();
    if (this.#live.isPaused) this.#live.resume();
    else this.#live.pause();
    this.#show();
  }

  async stop() {
    const live = this.#live;
    if (!live || live.recorder.state === "closing") return;
    forget();
    this.#show("closing");
    try {
      const session = await live.stop();
      await this.#saveName(session.session_id);
      this.#end("Saved.", "saved");
      this.#part(".result").replaceChildren(linkTo(session, "Listen to the recording"));
      this.#part(".result").hidden = false;
      this.#part(".result a").focus();
      this.#part(".name").value = "";
    } catch (error) {
      this.#failed(error);
    }
  }

  #failed(error) {
    if (!this.#live) return;
    const hasLeft = this.#live.recorder.pendingChunks > 0 && queue;
    forget();
    this.#end(`${reason(error)}${hasLeft ? " What was not uploaded is kept in this browser." : ""}`, "problem");
    this.#part("scribe-leftovers").refresh();
  }

  #end(text, state) {
    clearInterval(this.#timer);
    this.#live = null;
    this.#earlierSeconds = 0;
    keepOpen(this, false);
    this.#showLevel({ peak: 0, rms: 0 });
    this.#part(".kept").hidden = true;
    this.#showButtons();
    this.#say(text, state);
  }

  async #mark(event) {
    event.preventDefault();
    const input = event.target.elements.label;
    const number = this.#part(".markers").children.length + 1;
    const label = input.value.trim() || `Marker ${number}`;
    const row = document.createElement("li");
    const time = Object.assign(document.createElement("time"), { textContent: clock(this.#seconds) });
    row.append(time, ` ${label}`);
    this.#part(".markers").append(row);
    this.#part(".markers").hidden = false;
    input.value = "";
    await this.#live.marker(label);
  }

  async #rename() {
    this.#unsavedName = Boolean(this.#live) && this.#part(".name").value !== this.#savedName;
    if (this.#live?.recorder.sessionId) await this.#saveName(this.#live.recorder.sessionId);
  }

  /** Without a network the name is saved later, when the recorder is connected again. */
  async #saveName(sessionId) {
    if (!this.#unsavedName) return;
    this.#unsavedName = false;
    const name = this.#part(".name").value;
    try {
      await client.sessions.update(sessionId, { name: name || null });
      this.#savedName = name;
    } catch (error) {
      if (error.retryable) this.#unsavedName = true;
      else this.#say(`The name was not saved. ${reason(error)}`);
    }
  }

  async #changeDevice() {
    if (this.#live) await this.#switchTo(this.#part(".device").value);
  }

  /** The device has gone: go on with the default one. */
  async #replace() {
    if (!this.#live || this.#live.recorder.state === "closing") return;
    this.#show();
    await this.#listDevices();
    await this.#switchTo("");
  }

  async #switchTo(deviceId) {
    const live = this.#live;
    try {
      await live.switchTo(deviceId ? { deviceId } : {});
      if (live !== this.#live) return;
      this.#listen();
      this.#show();
      const { label } = live.microphone;
      this.#say(live.isPaused ? `Paused. The microphone is now ${label}.` : `Recording continues with ${label}.`);
    } catch (error) {
      if (live !== this.#live) return;
      this.#say(`${error.message} ${live.isLost ? STATES.lost : `The microphone is still ${live.microphone.label}.`}`, "problem");
    }
  }

  // After a reload.

  async #restore() {
    const isReload = performance.getEntriesByType("navigation")[0]?.type === "reload";
    const mark = JSON.parse(sessionStorage.getItem(RECORDING));
    const own = isReload && mark && queue ? await leftBehind(mark) : null;
    forget();
    this.#earlierSeconds = own ? mark.seconds : 0;
    this.#part("scribe-leftovers").refresh(own);
    if (own) await this.#continue(own);
  }

  async #continue(leftover) {
    this.#leftover = leftover;
    this.#part(".name").value = leftover.parameters.name ?? "";
    this.#part(".start").textContent = "Continue";
    const finish = button("Finish", () => this.#finish(leftover));
    finish.className = "finish";
    this.#part(".controls").append(finish);
    this.#say("The page was reloaded while it recorded.");
    await this.start();
    if (!this.#live) this.#say("The page was reloaded while it recorded. Press Continue to record more.", "asking");
  }

  async #finish(leftover) {
    this.#leftover = null;
    this.#showButtons();
    this.#say("You can upload the recorded audio below.");
    await this.#part("scribe-leftovers").refresh();
    if (!leftover.pendingChunks) this.#say("Saved.", "saved");
  }

  #remember() {
    const { sessionId, state } = this.#live.recorder;
    if (state !== "closing") sessionStorage.setItem(RECORDING, JSON.stringify({ sessionId, seconds: this.#seconds }));
  }

  // What is shown.

  get #state() {
    const { recorder, isLost, isPaused } = this.#live ?? {};
    if (recorder?.state === "closing") return "closing";
    return isLost ? "lost" : isPaused ? "paused" : recorder?.state;
  }

  #show(state = this.#state) {
    if (!this.#live || !STATES[state]) return;
    if (state === "recording" && this.#unsavedName) this.#saveName(this.#live.recorder.sessionId);
    this.#showButtons(state);
    this.#say(STATES[state], state === "lost" ? "problem" : state);
    this.#tick();
  }

  #showButtons(state) {
    const isOn = Boolean(this.#live);
    const isClosing = state === "closing";
    if (!this.#leftover) {
      this.#part(".finish")?.remove();
      this.#part(".start").textContent = "Record";
    }
    this.#part(".start").hidden = isOn;
    for (const name of [".pause", ".stop", ".mark"]) this.#part(name).hidden = !isOn || isClosing;
    this.#part(".pause").textContent = this.#live?.isPaused || this.#live?.isLost ? "Resume" : "Pause";
    const project = this.#part(".project");
    if (project) project.disabled = isOn;
  }

  #tick() {
    const { recorder } = this.#live;
    this.#remember();
    this.#part(".timer").textContent = clock(this.#seconds);
    const kept = recorder.pendingSeconds;
    const isWaiting = recorder.state === "closing" || !recorder.isConnected || kept > LEAST_KEPT_SECONDS;
    this.#part(".kept").hidden = !isWaiting || !recorder.pendingChunks;
    const waits = amount(recorder.pendingBytes, kept);
    this.#part(".kept").textContent = recorder.isConnected ? `${waits} to upload` : `Waiting for the network: ${waits} kept here`;
  }

  #showLevel({ peak, rms }) {
    if (this.#live && !this.#live.isPaused && !this.#live.isLost) this.#part("scribe-live-waveform").add(peak);
    const shown = Math.sqrt(rms);
    this.#part(".level span").style.transform = `scaleX(${shown})`;
    this.#part(".level").setAttribute("aria-valuenow", Math.round(100 * shown));
  }

  async #listDevices() {
    const select = this.#part(".device");
    const chosen = this.#live?.microphone.deviceId ?? select.value;
    const devices = (await Microphone.devices()).filter(({ deviceId, label }) => deviceId && label);
    const options = devices.map(({ deviceId, label }) => new Option(label, deviceId));
    if (!devices.some(({ deviceId }) => deviceId === "default")) options.unshift(new Option("Default microphone", ""));
    select.replaceChildren(...options);
    if (devices.some(({ deviceId }) => deviceId === chosen)) select.value = chosen;
  }

  #say(text, state) {
    this.#part(".state").textContent = text;
    if (state) this.dataset.state = state;
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) return;
    const act = { s: () => (this.#live ? this.stop() : this.start()), p: () => this.togglePause(), m: () => this.#focusMarker() };
    if (!act[event.key]) return;
    event.preventDefault();
    act[event.key]();
  }

  #focusMarker() {
    if (this.#live) this.#part(".mark input").focus();
  }
}

/** Return the leftover of this page. It may need a moment to release it. */
async function leftBehind(mark) {
  const find = async (options) =>
    (await queue.leftovers(options)).findLast(({ sessionId }) => sessionId === mark.sessionId);
  let found;
  await new Promise((resolve) => {
    setTimeout(resolve, LETTING_GO_MS);
    find({ onChange: resolve }).then((own) => own && resolve((found = own)));
  });
  return found ?? find();
}

function forget() {
  sessionStorage.removeItem(RECORDING);
}

customElements.define("scribe-recorder", RecorderPage);
