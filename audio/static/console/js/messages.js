/** Short messages at the edge of the page, which screen readers read out, and questions. */

import { button, h } from "./elements.js";

const SHOWN_MS = 6000;

/**
 * Show a message for a few seconds.
 *
 * @param {string} text - A sentence.
 * @param {{label: string, act: () => void}} [action] - A button, such as "Undo".
 * @returns {Promise<boolean>} Whether the button was pressed, once the message is gone.
 */
export function tell(text, action) {
  return new Promise((resolve) => {
    const close = (pressed) => {
      clearTimeout(timer);
      toast.remove();
      resolve(pressed);
    };
    const pressed = () => {
      action.act();
      close(true);
    };
    const toast = h("div.toast", {}, h("span", {}, text), action && button("small", { onclick: pressed }, action.label));
    const timer = setTimeout(() => close(false), SHOWN_MS);
    document.getElementById("toasts").append(toast);
  });
}

/**
 * Ask a question in a dialog.
 *
 * @param {{title: string, text: (string|Node)[], yes: string, danger?: boolean}} question - What is asked.
 * @returns {Promise<boolean>} Whether the answer was yes.
 */
export function ask({ title, text, yes, danger = false }) {
  return new Promise((resolve) => {
    const asked = h(
      "dialog.dialog",
      { "aria-labelledby": "question-title", onclose: () => { asked.remove(); resolve(asked.returnValue === "yes"); } },
      h("form", { method: "dialog" },
        h("h2", { id: "question-title" }, title),
        ...text.map((each) => h("p", {}, each)),
        h("div.actions", {},
          h("button", { value: "no", autofocus: true }, "Cancel"),
          h(`button.primary${danger ? ".danger" : ""}`, { value: "yes" }, yes))),
    );
    document.body.append(asked);
    asked.showModal();
  });
}
