/** The activity of a session: its background tasks, and for managers the deliveries of its events. */

import { all, client, explain } from "./api.js";
import { may } from "./context.js";
import { button, h, icon } from "./elements.js";
import { tell } from "./messages.js";
import * as words from "./words.js";

const TASKS = { transcode: "Transcode", waveform: "Waveform", concatenate: "Assembly", verify: "Verification" };
const LOOKS = { completed: "good", delivered: "good", failed: "bad", running: "warn", pending: "", revoked: "" };

export class Activity {
  constructor(element, session) {
    this.element = element;
    this.session = session;
    const verify = may("record", session.project) && button("small", { onclick: () => this.#verify() }, icon("check"), "Verify");
    this.tasks = h("ul.activity-list");
    this.deliveries = h("ul.activity-list");
    element.replaceChildren(
      h("header", {}, h("h2", { id: "activity-title" }, "Activity"), verify),
      this.tasks,
      h("div", { hidden: !may("manage", session.project) }, h("h3", {}, "Webhook deliveries"), this.deliveries));
  }

  async load() {
    await Promise.allSettled([this.#loadTasks(), may("manage", this.session.project) && this.#loadDeliveries()]);
  }

  async #loadTasks() {
    const { results } = await client.request("GET", "/api/tasks", { query: { session_id: this.session.session_id } });
    this.tasks.replaceChildren(...(results.length ? results.map(taskRow) : [h("li.hint", {}, "No tasks yet.")]));
  }

  async #loadDeliveries() {
    const query = { project: this.session.project };
    const hooks = await all("/api/webhooks", query);
    const read = hooks.map((hook) => client.request("GET", `/api/webhooks/${hook.id}/deliveries`, { query: { session_id: this.session.session_id } }));
    const rows = (await Promise.all(read)).flatMap(({ results }, index) => results.map((sent) => deliveryRow(sent, hooks[index])));
    const none = hooks.length ? "No deliveries yet." : "The project has no webhooks.";
    this.deliveries.replaceChildren(...(rows.length ? rows : [h("li.hint", {}, none)]));
  }

  async #verify() {
    try {
      await client.fetch("POST", "/api/tasks", { body: { task: "verify", session_id: this.session.session_id } });
      await this.#loadTasks();
    } catch (error) {
      tell(explain(error));
    }
  }
}

function pill(state) {
  const look = LOOKS[state];
  return h(`span.pill${look ? `.${look}` : ""}`, {}, state);
}

function taskRow(task) {
  const about = task.error?.detail
    ?? (task.task === "verify" && task.result ? `${words.count(task.result.problem_count, "problem")} found` : null)
    ?? (task.status === "running" ? `${Math.round(task.percent)} %` : null);
  const format = task.format ? ` to ${task.format.toUpperCase()}` : "";
  return h("li", {}, pill(task.status), h("span", {}, `${TASKS[task.task]}${format}`), h("span.about", {}, about ?? ""), words.timeElement(task.created_at));
}

/** Return the row of a delivery. */
export function deliveryRow(sent, hook, ...actions) {
  const last = sent.attempts.at(-1);
  const said = last ? (last.status_code ? `Answer ${last.status_code}` : last.error) : "Not attempted yet";
  const next = sent.next_attempt_at && last ? `, next attempt ${words.moment(sent.next_attempt_at)}` : "";
  return h("li", {}, pill(sent.status), h("span", {}, sent.event_type), h("span.about", { title: hook.url }, `${said}${next}`), words.timeElement(sent.created_at), ...actions);
}
