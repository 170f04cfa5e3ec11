/** The frame of every page: the menu on phones, the state of the server, and the shortcuts of all pages. */

import { mayAnywhere, url } from "./context.js";
import { h } from "./elements.js";
import { addShortcuts, showShortcuts } from "./shortcuts.js";

const HEALTH_SECONDS = 30;

const opener = document.querySelector(".to-more");
const more = document.getElementById("more");

function openMore(open) {
  more.toggleAttribute("data-open", open);
  opener.setAttribute("aria-expanded", String(open));
}

opener.addEventListener("click", () => openMore(!more.hasAttribute("data-open")));
document.addEventListener("click", (event) => {
  if (!more.contains(event.target) && !opener.contains(event.target)) openMore(false);
});
more.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !more.hasAttribute("data-open")) return;
  openMore(false);
  opener.focus();
});
document.querySelector(".to-shortcuts").addEventListener("click", showShortcuts);

addShortcuts("Everywhere", [
  [["?"], "Show the keyboard shortcuts", showShortcuts],
  [["g"], "Go to the sessions", () => location.assign(url(""))],
]);
if (mayAnywhere("record") && document.querySelector(".to-record:not([aria-current])")) {
  addShortcuts("Everywhere", [[["r"], "Record", () => location.assign(url("record"))]]);
}

/** Show the state of the server, by /health/ready. */
async function showHealth() {
  const answer = await fetch(url("health/ready")).catch(() => null);
  const checks = (await answer?.json().catch(() => null))?.checks;
  const isWell = Boolean(checks) && Object.values(checks).every((each) => each === "ok");
  const badge = document.querySelector(".health .badge");
  badge.textContent = isWell ? "Running" : checks ? "Problems" : "No answer";
  badge.className = `badge ${isWell ? "good" : "bad"}`;
  if (checks) document.querySelector(".checks").replaceChildren(...Object.entries(checks).map(shownCheck));
}

const shownCheck = ([name, state]) =>
  h(`li.${state === "ok" ? "good" : "bad"}`, {}, h("strong", {}, name), " ", h("span", {}, state));

setInterval(() => document.visibilityState === "visible" && showHealth(), HEALTH_SECONDS * 1000);
