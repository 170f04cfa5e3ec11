/** The menu of downloads. A format that does not exist yet is made first, with its progress on the page. */

import { client, explain } from "./api.js";
import { context } from "./context.js";
import { button, h, icon } from "./elements.js";
import { tell } from "./messages.js";
import { size } from "./words.js";

const ABOUT = {
  wav: "Uncompressed, for editing",
  flac: "Lossless, about half the size",
  mp3: "Small, plays everywhere",
  m4a: "Small, for Apple devices",
  aac: "Small, without a container",
  opus: "Smallest",
};

/** Return the button of the menu, for a session whose recording can be downloaded. */
export function downloadMenu(session, notices) {
  const id = `downloads-${session.session_id}`;
  const menu = h("div.menu", { id, hidden: true });
  const opener = button("", { "aria-expanded": "false", "aria-controls": id }, icon("download"), "Download");
  const open = (isOpen) => {
    menu.hidden = !isOpen;
    opener.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) menu.querySelector("a, button").focus();
  };
  menu.append(...choices(session, notices, () => open(false)));
  opener.addEventListener("click", () => open(menu.hidden));
  const place = h("div.menu-place", {}, opener, menu);
  place.addEventListener("focusout", (event) => place.contains(event.relatedTarget) || open(false));
  place.addEventListener("keydown", (event) => onKey(event, menu, opener, open));
  return place;
}

function onKey(event, menu, opener, open) {
  if (menu.hidden) return;
  const items = [...menu.querySelectorAll("a, button")];
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (event.key === "Escape") {
    open(false);
    opener.focus();
  } else if (step) {
    event.preventDefault();
    items[(items.indexOf(document.activeElement) + step + items.length) % items.length].focus();
  }
}

function choices(session, notices, close) {
  const { session_id: id, recording } = session;
  const row = (name, about) => [h("strong", {}, name), h("small", {}, about)];
  const link = (href, ...shown) => h("a.choice", { href, download: true, onclick: () => setTimeout(close) }, ...shown);
  if (recording.state === "failed") {
    return [link(client.audioUrl(id, { partial: true }), ...row("The part that could be made", "The rest of the audio could not be read"))];
  }
  const own = recording.format;
  const about = recording.size_bytes ? `As recorded, ${size(recording.size_bytes)}` : "The recording so far";
  const first = link(client.audioUrl(id), ...row(own.toUpperCase(), about));
  if (recording.state !== "ready") return [first];
  const made = context.formats.filter((format) => format !== own).map((format) =>
    button("choice", { onclick: () => { close(); make(session, notices, { format }); } }, ...row(format.toUpperCase(), ABOUT[format])));
  const cued = button("choice", { onclick: () => { close(); make(session, notices, { format: "wav", markers: true }); } },
    ...row("WAV with markers", "Cue points for audio editors"));
  return [first, ...made, cued];
}

/** Make a format, show how far it is, and download it. */
async function make(session, notices, { format, markers }) {
  const stop = new AbortController();
  const bar = h("progress", { max: 1, value: 0, "aria-label": `Making the ${format.toUpperCase()}` });
  const percent = h("span", {}, "0 %");
  const row = h("div.making", {}, h("span", {}, `Making the ${format.toUpperCase()}…`), percent, bar,
    button("small", { onclick: () => stop.abort() }, "Cancel"));
  const onProgress = (done) => {
    bar.value = done;
    percent.textContent = `${Math.round(100 * done)} %`;
  };
  notices.append(row);
  try {
    await client.prepare(session.session_id, format, { signal: stop.signal, onProgress });
    h("a", { href: client.audioUrl(session.session_id, { format, markers }), download: true }).click();
    tell(`The ${format.toUpperCase()} is ready, and your browser downloads it.`);
  } catch (error) {
    if (!stop.signal.aborted) tell(explain(error));
  }
  row.remove();
}
