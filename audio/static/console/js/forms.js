/** Forms that create rows. They open in place, and show errors. */

import { explain } from "./api.js";
import { button, h, icon } from "./elements.js";
import { tell } from "./messages.js";

/**
 * Open a form in front of a list.
 *
 * @param {HTMLElement} list - The list.
 * @param {Node[]} fields - The fields.
 * @param {string} yes - The label of the button that sends it.
 * @param {(form: HTMLFormElement) => Promise<void>} send - Sends it. Its error is shown in the form.
 */
export function openForm(list, fields, yes, send) {
  if (list.previousElementSibling?.matches("form.new-form")) list.previousElementSibling.remove();
  const problem = h("p.problem", { role: "alert", hidden: true });
  const form = h("form.new-form", { onsubmit: (event) => { event.preventDefault(); submit(form, problem, send); } },
    problem, ...fields,
    h("div.actions", {}, button("", { onclick: () => form.remove() }, "Cancel"), h("button.primary", {}, yes)));
  list.before(form);
  form.querySelector("input, select").focus();
}

async function submit(form, problem, send) {
  const sender = form.querySelector("button.primary");
  sender.disabled = true;
  try {
    await send(form);
    form.remove();
  } catch (error) {
    problem.textContent = explain(error);
    problem.hidden = false;
  }
  sender.disabled = false;
}

/** Show a secret once, with a button that copies it, in front of a list. */
export function showSecret(list, what, secret) {
  const shown = h("input", { value: secret, readonly: true, "aria-label": what, onfocus: () => shown.select() });
  const copy = button("primary", { onclick: () => copySecret(shown) }, icon("copy"), "Copy");
  const box = h("div.secret", { role: "group", "aria-label": what },
    h("p", {}, h("strong", {}, `${what}. `), "Copy it now: it is not shown again."),
    h("div.copy", {}, shown, copy, button("", { onclick: () => box.remove() }, "Done")));
  list.before(box);
  copy.focus();
}

async function copySecret(shown) {
  try {
    await navigator.clipboard.writeText(shown.value);
    tell("Copied.");
  } catch {
    // Pages without TLS have no clipboard.
    shown.select();
    tell("Your browser does not let the page copy. The secret is selected: copy it with the keyboard.");
  }
}
