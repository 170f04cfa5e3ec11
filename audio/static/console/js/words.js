/** Numbers, times and states as text for the reader: in their time zone, with common units. */

const LANGUAGE = "en-GB";
const DAY_MS = 24 * 3600 * 1000;
const SIZES = ["bytes", "kB", "MB", "GB", "TB"];

const clock = new Intl.DateTimeFormat(LANGUAGE, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(LANGUAGE, { weekday: "short", day: "numeric", month: "short" });
const dayOfYear = new Intl.DateTimeFormat(LANGUAGE, { day: "numeric", month: "short", year: "numeric" });
const exact = new Intl.DateTimeFormat(LANGUAGE, { dateStyle: "full", timeStyle: "long" });
const midnight = (date) => new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();

/** Return a moment as people say it: "Today, 15:04", "Fri 27 Nov, 15:04", or with the year if it is another one. */
export function moment(text, now = new Date()) {
  const date = new Date(text);
  const days = Math.round((midnight(now) - midnight(date)) / DAY_MS);
  const names = { 0: "Today", 1: "Yesterday", [-1]: "Tomorrow" };
  const shown = names[days] ?? (date.getFullYear() === now.getFullYear() ? day : dayOfYear).format(date).replace(",", "");
  return `${shown}, ${clock.format(date)}`;
}

/** Return a moment to the second, with the zone. */
export const exactMoment = (text) => exact.format(new Date(text));

/** Return a <time> for a moment. */
export function timeElement(text) {
  const element = document.createElement("time");
  element.dateTime = text;
  element.title = exactMoment(text);
  element.textContent = moment(text);
  return element;
}

/** Return a number of seconds as a player shows it: "0:07", "12:34", "1:02:03"; with tenths if asked for. */
export function length(seconds, { tenths = false } = {}) {
  const whole = Math.floor(seconds + 1e-6);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  const shown = hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
  return tenths ? `${shown}.${Math.floor((seconds + 1e-6) * 10) % 10}` : shown;
}

/** Return a number of seconds as it is spoken: "1 hour 2 minutes 3 seconds". */
export function spoken(seconds) {
  const whole = Math.floor(seconds);
  const parts = [[Math.floor(whole / 3600), "hour"], [Math.floor(whole / 60) % 60, "minute"], [whole % 60, "second"]];
  const said = parts.filter(([count]) => count).map(([count, unit]) => `${count} ${unit}${count === 1 ? "" : "s"}`);
  return said.join(" ") || "0 seconds";
}

/** Return a number of bytes with its unit. */
export function size(bytes) {
  const power = Math.min(SIZES.length - 1, bytes < 1000 ? 0 : Math.floor(Math.log10(bytes) / 3));
  const number = bytes / 1000 ** power;
  return `${power && number < 10 ? number.toFixed(1) : Math.round(number)} ${SIZES[power]}`;
}

/** Return a count with its noun: "1 chunk", "1,200 chunks". */
export const count = (number, noun) => `${number.toLocaleString(LANGUAGE)} ${noun}${number === 1 ? "" : "s"}`;

/** Return the audio of a session: "WAV, 48 kHz, stereo". */
export function audio(session) {
  const channels = session.recording.channels ?? session.channels;
  const rate = (session.recording.sample_rate ?? session.sample_rate) / 1000;
  return `${session.format.toUpperCase()}, ${rate} kHz, ${channels === 1 ? "mono" : "stereo"}`;
}

/** Return the title of a session. */
export const title = (session) => session.name || "Untitled recording";

/** Whether a session accepts audio. */
export const isOpen = (session) => session.status === "active" || session.status === "paused";

const OF_RECORDINGS = {
  ready: ["Ready", "quiet"],
  building: ["Being made", "warn dot"],
  live: ["Being made", "warn dot"],
  failed: ["Failed", "bad dot"],
  empty: ["Empty", ""],
};

/** Return the state of a session in words, and the classes of its pill. */
export function state(session) {
  if (session.status === "active") return ["Recording", "live"];
  if (session.status === "paused") return ["Paused", "warn dot"];
  if (session.recording.state === "empty" && session.total_chunks) return OF_RECORDINGS.building;
  return OF_RECORDINGS[session.recording.state];
}
