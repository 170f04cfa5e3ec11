/** Keyboard shortcuts, and the dialog that lists them. */

import { h } from "./elements.js";

const groups = new Map();
const dialog = document.getElementById("shortcuts");
const TYPED_IN = "input, select, textarea, [contenteditable]";
// Keys that press a focused control. They are shortcuts only where no control has the focus.
const PRESSES = new Set([" ", "Enter"]);
const NAMES = { " ": "Space", ArrowLeft: "Left", ArrowRight: "Right", ArrowUp: "Up", ArrowDown: "Down" };

/**
 * Add shortcuts.
 *
 * @param {string} group - The heading in the dialog.
 * @param {Array<[string[], string, (event: KeyboardEvent) => void]>} rows - Keys (as in KeyboardEvent.key), what they
 *   do, and the function that does it.
 */
export function addShortcuts(group, rows) {
  groups.set(group, [...(groups.get(group) ?? []), ...rows]);
}

/** Show the dialog. */
export function showShortcuts() {
  const shown = [...groups].map(([group, rows]) => [
    h("h3", {}, group),
    h("dl", {}, ...rows.flatMap(([keys, what]) => [h("dt", {}, what), h("dd", {}, ...keysShown(keys))])),
  ]);
  dialog.querySelector(".shortcut-groups").replaceChildren(...shown.flat());
  dialog.showModal();
}

const keysShown = (keys) => keys.flatMap((key, index) => [index ? " " : "", h("kbd", {}, NAMES[key] ?? key)]);

function onKey(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest(TYPED_IN) || document.querySelector("dialog[open]")) return;
  if (PRESSES.has(event.key) && event.target.closest("button, a, summary")) return;
  const row = [...groups.values()].flat().find(([keys]) => keys.includes(event.key));
  if (!row) return;
  event.preventDefault();
  row[2](event);
}

document.addEventListener("keydown", onKey);
