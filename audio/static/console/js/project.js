/** The settings of a project: API keys, members, webhooks, limits and retention. */

import { deliveryRow } from "./activity.js";
import { all, client, explain } from "./api.js";
import { context } from "./context.js";
import { button, field, h, icon } from "./elements.js";
import { openForm, showSecret } from "./forms.js";
import { ask, tell } from "./messages.js";
import * as words from "./words.js";

const DAY_MS = 24 * 3600 * 1000;
const { project } = context;
const SCOPES = { read: "Listen and download", record: "Record and close", manage: "Delete, and change settings" };
const ROLES = { viewer: "Viewer: listens and downloads", recorder: "Recorder: records too", manager: "Manager: deletes, and changes settings" };
const LIMITS = {
  max_open_sessions: ["Open sessions", "At once"],
  max_openings_per_minute: ["New sessions", "Per minute"],
  max_bytes_per_day: ["Received bytes", "Per day (UTC)"],
  max_requests_per_second: ["Requests", "Per second, for each key, token and person"],
};
const DELIVERIES_SHOWN = 10;
const TEST_MS = 1500;

/** A card with a list of things that can be added. */
class Section {
  constructor(id, title, about, add) {
    this.element = document.getElementById(id);
    this.list = h("ul.rows");
    this.element.replaceChildren(
      h("header", {}, h("h2", { id: `${id}-title` }, title), button("small", { onclick: () => this.add() }, icon("plus"), add)),
      h("p", {}, about),
      this.list);
  }

  /** Read the list again and show it. */
  async load() {
    try {
      const rows = await this.read();
      this.list.replaceChildren(...(rows.length ? rows.map((row) => this.row(row)) : [h("li.hint", {}, this.none)]));
    } catch (error) {
      this.list.replaceChildren(h("li.hint", { role: "alert" }, explain(error), " ", button("small", { onclick: () => this.load() }, "Try again")));
    }
  }

  /** Do something, say that it was done, and show the list anew. */
  async act(method, path, said, body) {
    try {
      const answer = await client.fetch(method, path, { body });
      if (!answer.ok) throw Object.assign(new Error((await answer.json()).detail), { status: answer.status });
      if (said) tell(said);
      await this.load();
    } catch (error) {
      tell(explain(error));
    }
  }
}

class Keys extends Section {
  none = "There are no keys yet. A program needs one to record or to read.";

  constructor() {
    super("keys", "API keys", "For programs. Give browsers and devices a session token, never a key.", "New key");
  }

  read() {
    return all("/api/keys", { project: project.name });
  }

  row(key) {
    const isOver = Boolean(key.revoked_at) || (key.expires_at && new Date(key.expires_at) < new Date());
    const used = key.last_used_at ? `used ${words.moment(key.last_used_at)}` : "never used";
    const expiry = key.revoked_at ? `revoked ${words.moment(key.revoked_at)}` : key.expires_at ? `expires ${words.moment(key.expires_at)}` : "does not expire";
    return h(`li${isOver ? ".off" : ""}`, {},
      h("div.what", {}, h("strong", {}, key.name), " ", h("code", {}, `${key.prefix}…`), h("small", {}, [key.scopes.join(", "), used, expiry].join(" · "))),
      h("div.doing", {}, !isOver && button("small.danger", { onclick: () => this.#revoke(key) }, "Revoke")));
  }

  add() {
    const name = h("input", { name: "name", required: true, maxlength: 100, placeholder: "phone-bridge" });
    const days = h("select", { name: "days" }, ...[["", "Does not expire"], ["30", "In 30 days"], ["90", "In 90 days"], ["365", "In a year"]].map(([value, said]) => h("option", { value }, said)));
    const boxes = context.scopes.map((scope) => h("label.check", {}, h("input", { type: "checkbox", name: "scopes", value: scope, checked: scope !== "manage" }), SCOPES[scope]));
    openForm(this.list, [h("div.side", {}, field("Name", name, "The program that uses the key"), field("Expires", days)), h("fieldset", {}, h("legend", {}, "May"), ...boxes)], "Create key", async () => {
      const scopes = boxes.map((box) => box.firstChild).filter((box) => box.checked).map((box) => box.value);
      const expires = days.value && { expires_at: new Date(Date.now() + Number(days.value) * DAY_MS).toISOString() };
      const made = await client.request("POST", "/api/keys", { body: { name: name.value.trim(), scopes, project: project.name, ...expires } });
      await this.load();
      showSecret(this.list, `The key of ${made.name}`, made.key);
    });
  }

  async #revoke(key) {
    const text = [`Programs that use “${key.name}” lose their access at once, and so do the tokens that it has made.`];
    if (await ask({ title: "Revoke this key?", text, yes: "Revoke", danger: true })) await this.act("DELETE", `/api/keys/${key.id}`, `“${key.name}” is revoked.`);
  }
}

class Members extends Section {
  none = "Nobody is a member. Staff can use every project.";
  #path = `/api/projects/${project.id}/members`;

  constructor() {
    super("members", "Members", "People who log in.", "Add member");
  }

  read() {
    return all(this.#path);
  }

  row(member) {
    const role = h("select", { "aria-label": `Role of ${member.user}`, onchange: () => this.act("PATCH", `${this.#path}/${member.id}`, `${member.user} is ${role.value} now.`, { role: role.value }) },
      ...context.roles.map((each) => h("option", { value: each, selected: each === member.role }, each)));
    return h("li", {}, h("div.what", {}, h("strong", {}, member.user)), h("div.doing", {}, role, button("small.danger", { onclick: () => this.#remove(member) }, "Remove")));
  }

  add() {
    const user = h("input", { name: "user", required: true, maxlength: 150, autocomplete: "off", autocapitalize: "none" });
    const role = h("select", { name: "role" }, ...context.roles.map((each) => h("option", { value: each }, ROLES[each])));
    openForm(this.list, [h("div.side", {}, field("User name", user, "The name that they log in with"), field("Role", role))], "Add", async () => {
      await client.request("POST", this.#path, { body: { user: user.value.trim(), role: role.value } });
      await this.load();
    });
  }

  async #remove(member) {
    const text = [`${member.user} can no longer see “${project.name}”. Keys that they have made stay valid.`];
    if (await ask({ title: "Remove this member?", text, yes: "Remove", danger: true })) await this.act("DELETE", `${this.#path}/${member.id}`, `${member.user} is removed.`);
  }
}

class Webhooks extends Section {
  none = "There are no webhooks yet. A webhook tells your server when a recording is ready.";

  constructor() {
    super("webhooks", "Webhooks", "The server sends the events of the project to these addresses.", "New webhook");
  }

  read() {
    return all("/api/webhooks", { project: project.name });
  }

  row(hook) {
    const state = hook.is_enabled ? (hook.failing_since ? ["Failing", "bad"] : ["On", "good"]) : ["Off", ""];
    const types = hook.event_types.length ? hook.event_types.join(", ") : "all events";
    const about = [hook.description, types, hook.failing_since && `failing since ${words.moment(hook.failing_since)}`, hook.disabled_reason];
    const deliveries = h("ul.activity-list.within", { hidden: true });
    const path = `/api/webhooks/${hook.id}`;
    const show = button("small", { "aria-expanded": "false", onclick: () => this.#toggle(hook, deliveries, show) }, "Deliveries");
    return h("li", {},
      h("div.what", {}, h(`span.pill${state[1] ? `.${state[1]}` : ""}`, {}, state[0]), " ", h("strong", {}, hook.url), h("small", {}, about.filter(Boolean).join(" · "))),
      h("div.doing", {},
        button("small", { onclick: () => this.#test(hook, deliveries, show) }, "Test"),
        show,
        button("small", { onclick: () => this.#rotate(hook) }, "New secret"),
        button("small", { onclick: () => this.act("PATCH", path, null, { is_enabled: !hook.is_enabled }) }, hook.is_enabled ? "Switch off" : "Switch on"),
        button("small.danger", { onclick: () => this.#remove(hook) }, "Delete")),
      deliveries);
  }

  add() {
    const address = h("input", { name: "url", type: "url", required: true, maxlength: 2000, placeholder: "https://example.org/hook" });
    const about = h("input", { name: "description", maxlength: 200 });
    const boxes = context.event_types.map((type) => h("label.check", {}, h("input", { type: "checkbox", value: type }), type));
    openForm(this.list, [h("div.side", {}, field("Address", address), field("Description", about)), h("fieldset", {}, h("legend", {}, "Events (none means all)"), ...boxes)], "Create webhook", async () => {
      const types = boxes.map((box) => box.firstChild).filter((box) => box.checked).map((box) => box.value);
      const body = { url: address.value.trim(), description: about.value.trim(), event_types: types, project: project.name };
      const made = await client.request("POST", "/api/webhooks", { body });
      await this.load();
      showSecret(this.list, "The secret of the webhook", made.secret);
    });
  }

  async #toggle(hook, list, opener) {
    list.hidden = !list.hidden;
    opener.setAttribute("aria-expanded", String(!list.hidden));
    if (!list.hidden) await this.#loadDeliveries(hook, list);
  }

  async #loadDeliveries(hook, list) {
    try {
      const { results } = await client.request("GET", `/api/webhooks/${hook.id}/deliveries`, { query: { page_size: DELIVERIES_SHOWN } });
      const replay = (sent) => button("small", { onclick: () => this.#replay(hook, sent, list) }, "Send again");
      const rows = results.map((sent) => deliveryRow(sent, hook, replay(sent)));
      list.replaceChildren(...(rows.length ? rows : [h("li.hint", {}, "Nothing was sent yet.")]));
    } catch (error) {
      list.replaceChildren(h("li.hint", { role: "alert" }, explain(error)));
    }
  }

  async #test(hook, list, opener) {
    if (await this.#send(`/api/webhooks/${hook.id}/test`, "A test event is being sent.")) this.#watch(hook, list, opener);
  }

  async #replay(hook, sent, list) {
    if (await this.#send(`/api/webhooks/${hook.id}/deliveries/${sent.id}/replay`, "The event is being sent again.")) this.#watch(hook, list);
  }

  async #send(path, said) {
    const answer = await client.fetch("POST", path).catch(() => null);
    tell(answer?.ok ? said : answer ? (await answer.json()).detail : "The server does not answer.");
    return Boolean(answer?.ok);
  }

  /** Show the deliveries until none of them is on its way. */
  async #watch(hook, list, opener) {
    list.hidden = false;
    opener?.setAttribute("aria-expanded", "true");
    for (let tries = 0; tries < 10 && list.isConnected; tries += 1) {
      await this.#loadDeliveries(hook, list);
      if (![...list.querySelectorAll(".pill")].some((pill) => pill.textContent === "pending")) return;
      await new Promise((resolve) => setTimeout(resolve, TEST_MS));
    }
  }

  async #rotate(hook) {
    const text = ["For 24 hours events are signed with both secrets. Change the receiver within that time."];
    if (!(await ask({ title: "Create a new secret?", text, yes: "Create" }))) return;
    try {
      const made = await client.request("POST", `/api/webhooks/${hook.id}/rotate`);
      showSecret(this.list, "The new secret of the webhook", made.secret);
    } catch (error) {
      tell(explain(error));
    }
  }

  async #remove(hook) {
    const text = [`${hook.url} gets no more events, and its deliveries are deleted.`];
    if (await ask({ title: "Delete this webhook?", text, yes: "Delete", danger: true })) await this.act("DELETE", `/api/webhooks/${hook.id}`, "The webhook is deleted.");
  }
}

class Limits {
  constructor() {
    this.element = document.getElementById("limits");
  }

  async load() {
    try {
      this.#show(await client.request("GET", `/api/projects/${project.id}`));
    } catch (error) {
      this.element.replaceChildren(h("p", { role: "alert" }, explain(error)));
    }
  }

  #show(known) {
    const days = h("input", { name: "retention_days", type: "number", min: 0, max: 36500, value: known.retention_days ?? "", placeholder: "The setting of the server" });
    const limits = Object.entries(LIMITS).map(([name, [title, about]]) => {
      const input = h("input", { name, type: "number", min: 1, value: known[name] ?? "", placeholder: "No limit", disabled: !context.is_staff });
      return field(title, input, about);
    });
    const note = context.is_staff ? null : h("p", {}, "Only the operators of the server can change the limits.");
    const form = h("form.limits", { onsubmit: (event) => { event.preventDefault(); this.#save(form); } },
      field("Days to keep sessions", days, "After their end. 0 keeps them forever."), ...limits,
      h("div.actions", {}, h("button.primary", {}, "Save")));
    this.element.replaceChildren(...[h("header", {}, h("h2", { id: "limits-title" }, "Limits and retention")), note, form].filter(Boolean));
  }

  async #save(form) {
    const numbers = [...form.querySelectorAll("input:enabled")].map((input) => [input.name, input.value === "" ? null : Number(input.value)]);
    try {
      this.#show(await client.request("PATCH", `/api/projects/${project.id}`, { body: Object.fromEntries(numbers) }));
      tell("Saved.");
    } catch (error) {
      tell(explain(error));
    }
  }
}

for (const section of [new Keys(), new Members(), new Webhooks(), new Limits()]) section.load();
