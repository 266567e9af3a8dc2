// Batches: those of the queue and those that have ended, and what can be done with them.

import * as api from "./api.js";
import { ask, by, keep, make, say, sayOrHide } from "./elements.js";
import * as words from "./words.js";

const FAILED_SHOWN = 50;
/** Ended batches that were asked for by "older" stay until there are so many. */
const ENDED_KEPT = 500;
const ENDED = "completed,failed,expired,cancelled";

export function showUnfinished(list, actions) {
  by("unfinished-none").hidden = list.data.length > 0;
  by("unfinished-rest").hidden = !list.has_more;
  list.data.forEach((batch, at) => (batch.ahead = at));
  keep(by("unfinished"), list.data, (batch) => batch.id, (batch) => create(batch, actions), update);
}

let ended = new Map();
let oldest;

export function showEnded(list, actions) {
  // What lies within the newest page and is not in it any more was deleted.
  const pageEnd = list.has_more ? list.last_id : "";
  for (const id of ended.keys()) if (id >= pageEnd) ended.delete(id);
  list.data.forEach((batch) => ended.set(batch.id, batch));
  oldest ??= { id: list.last_id, has_more: list.has_more };
  if (!list.has_more) oldest = { id: list.last_id, has_more: false };
  const older = by("older");
  older.onclick = () => showOlder(actions);
  show(actions);
}

async function showOlder(actions) {
  try {
    const query = new URLSearchParams({ status: ENDED, limit: "20", after: oldest.id });
    const page = await api.get(`/v1/batches?${query}`);
    page.data.forEach((batch) => ended.set(batch.id, batch));
    oldest = { id: page.last_id ?? oldest.id, has_more: page.has_more };
    show(actions);
  } catch (error) {
    actions.note(error.message);
  }
}

function show(actions) {
  const newestFirst = [...ended.values()].sort((a, b) => (a.id < b.id ? 1 : -1)).slice(0, ENDED_KEPT);
  by("ended-none").hidden = newestFirst.length > 0;
  by("older").hidden = !oldest.has_more || newestFirst.length >= ENDED_KEPT;
  keep(by("ended"), newestFirst, (batch) => batch.id, (batch) => create(batch, actions), update);
}

const givenName = (batch) => batch.metadata?.name?.trim();
const nameOf = (batch) => givenName(batch) || batch.id;
const hasEnded = (batch) => ENDED.split(",").includes(batch.status);

/** The card of a batch. Its buttons read the batch from it as it then is. */
function create(batch, actions) {
  const card = make("article", { className: "batch", "aria-label": nameOf(batch) });
  const button = (name, text, act) =>
    make("button", { type: "button", className: name, onclick: () => attempt(card, actions, act) }, text);
  const priority = make("input", { type: "number", min: -100, max: 100, className: "priority" });
  priority.addEventListener("change", () => attempt(card, actions, setPriority));
  card.append(
    make("div", { className: "head" },
      make("h3", {}, nameOf(batch)),
      make("span", { className: "chip" }),
      make("code", { className: "quiet", hidden: !givenName(batch) }, batch.id)),
    make("div", { className: "bar", role: "progressbar", "aria-label": "Progress", "aria-valuemin": 0, "aria-valuemax": 100 },
      make("span", { className: "done" }), make("span", { className: "lost" })),
    make("p", { className: "counts" }),
    make("p", { className: "why", hidden: true }),
    make("div", { className: "row actions" },
      make("label", { className: "of-priority" }, "Priority ", priority),
      button("pause", "Pause", pause),
      button("resume", "Resume", resume),
      button("cancel", "Cancel", cancel),
      button("output", "Output", (it) => save(it, it.output_file_id, "output")),
      button("errors", "Errors", (it) => save(it, it.error_file_id, "errors")),
      button("retry", "Send failed again", retry),
      button("failed", "", toggleFailed)),
    make("div", { className: "failed-list", hidden: true }),
  );
  return card;
}

function update(card, batch) {
  card.batch = batch;
  batch.ended = hasEnded(batch);
  const { total, completed, failed } = batch.request_counts;
  const find = (name) => card.querySelector(name);
  const chip = find(".chip");
  chip.dataset.state = batch.overnight.paused && !batch.ended ? "paused" : batch.status;
  if (batch.status === "completed" && failed > 0) chip.dataset.state = "degraded";
  say(chip, words.status(batch));
  const bar = find(".bar");
  bar.hidden = total === 0;
  bar.setAttribute("aria-valuenow", total > 0 ? Math.floor((100 * (completed + failed)) / total) : 0);
  find(".done").style.width = `${total > 0 ? (100 * completed) / total : 0}%`;
  find(".lost").style.width = `${total > 0 ? (100 * failed) / total : 0}%`;
  say(find(".counts"), counts(batch));
  sayOrHide(find(".why"), why(batch));
  const priority = find(".priority");
  if (document.activeElement !== priority) priority.value = batch.overnight.priority;
  const isOpen = !batch.ended && batch.status !== "cancelling";
  const shown = {
    "of-priority": isOpen,
    pause: isOpen && !batch.overnight.paused,
    resume: isOpen && batch.overnight.paused,
    cancel: isOpen && batch.status !== "finalizing",
    output: batch.output_file_id != null,
    errors: batch.error_file_id != null,
    retry: batch.ended && failed > 0 && batch.error_file_id != null,
    failed: failed > 0,
  };
  for (const [name, isShown] of Object.entries(shown)) find(`.${name}`).hidden = !isShown;
  const list = find(".failed-list");
  say(find(".failed"), list.hidden ? `Show ${words.count(failed)} failed` : "Hide failed");
  find(".failed").setAttribute("aria-expanded", String(!list.hidden));
}

function counts(batch) {
  const { total, completed, failed } = batch.request_counts;
  const ours = batch.overnight;
  if (total === 0) return batch.ended ? "no request was run" : "its input is being checked";
  const parts = [`${words.count(completed + failed)} of ${words.count(total)} (${words.percent(completed + failed, total)})`];
  if (failed > 0) parts.push(`${words.count(failed)} failed`);
  if (ours.cut_short > 0) parts.push(`${words.count(ours.cut_short)} cut short by their length`);
  if (batch.ended) {
    const at = batch.completed_at ?? batch.failed_at ?? batch.expired_at ?? batch.cancelled_at;
    if (at) parts.push(`ended ${words.moment(at)} after ${words.span(at - batch.created_at)}`);
  } else {
    if (ours.rate_per_second > 0) parts.push(`${words.rate(ours.rate_per_second)} a second`);
    if (ours.eta_seconds != null) {
      const [soonest, latest] = ours.eta_bounds_seconds.map(words.span);
      parts.push(`${words.span(ours.eta_seconds)} left${soonest === latest ? "" : ` (${soonest} to ${latest})`}`);
    }
    parts.push(`due ${words.moment(batch.expires_at)}`);
  }
  if (batch.model) parts.push(batch.model);
  return parts.join(" · ");
}

/** Why nothing moves, as far as it is known. */
function why(batch) {
  const ours = batch.overnight;
  if (batch.ended) {
    const errors = batch.errors?.data ?? [];
    const shown = errors.slice(0, 3).map((error) => (error.line ? `line ${error.line}: ` : "") + error.message);
    const rest = errors.length > 3 ? `; and more: overnight status ${batch.id}` : "";
    return shown.join("; ") + rest;
  }
  if (ours.waiting_reason) return `Waits: ${ours.waiting_reason}`;
  if (batch.status === "finalizing") return "Its files are being written";
  if (batch.status === "cancelling") return "What is in flight is being ended";
  if (batch.status === "in_progress" && ours.open_chunks === 0 && batch.ahead > 0) {
    return `Waits for its turn: ${words.count(batch.ahead)} before it in the queue`;
  }
  return "";
}

/** Does what a button says, and says what came of it. */
async function attempt(card, actions, act) {
  try {
    const said = await act(card.batch, card);
    if (said) actions.note(said);
    actions.refresh();
  } catch (error) {
    actions.note(`${nameOf(card.batch)}: ${error.message}`);
  }
}

const path = (batch, verb) => `/v1/batches/${encodeURIComponent(batch.id)}${verb}`;

async function pause(batch) {
  await api.post(path(batch, "/pause"));
  return `${nameOf(batch)} is paused; what is in flight is finished`;
}

async function resume(batch) {
  await api.post(path(batch, "/resume"));
  return `${nameOf(batch)} goes on`;
}

async function cancel(batch) {
  const { total, completed, failed } = batch.request_counts;
  const left = total > 0 ? `${words.count(total - completed - failed)} requests will not be answered. ` : "";
  const text = `${left}What is answered already is kept. This cannot be taken back.`;
  if (!(await ask(`Cancel ${nameOf(batch)}?`, text, "Yes, cancel it"))) return "";
  await api.post(path(batch, "/cancel"));
  return `${nameOf(batch)} is being cancelled`;
}

async function retry(batch) {
  const child = await api.post(path(batch, "/retry"));
  return `The failed requests are sent again as ${child.id}`;
}

async function setPriority(batch, card) {
  const input = card.querySelector(".priority");
  const priority = Number(input.value);
  if (input.value === "" || !input.checkValidity() || !Number.isInteger(priority)) {
    input.value = batch.overnight.priority;
    return "A priority is a whole number from -100 to 100";
  }
  await api.post(path(batch, ""), { overnight: { priority } });
  return `${nameOf(batch)} has priority ${priority}`;
}

async function save(batch, file, what) {
  const name = nameOf(batch).replace(/[^\w.-]+/g, "_").slice(0, 100);
  await api.download(file, `${name}.${what}.jsonl`);
  return "";
}

async function toggleFailed(batch, card) {
  const list = card.querySelector(".failed-list");
  list.hidden = !list.hidden;
  if (list.hidden) return "";
  const page = await api.get(path(batch, `/failed?limit=${FAILED_SHOWN}`));
  const cell = (tag, text) => make(tag, {}, text);
  const rows = page.data.map((failed) =>
    make("tr", {},
      make("td", {}, make("code", {}, failed.custom_id)),
      cell("td", failed.line == null ? words.unknown : String(failed.line)),
      cell("td", failed.error_type),
      cell("td", failed.status_code == null ? words.unknown : String(failed.status_code)),
      cell("td", String(failed.attempts)),
      cell("td", failed.error_message),
      cell("td", failed.retried_by ?? words.unknown)));
  const head = ["request", "line", "type", "status", "attempts", "message", "sent again by"].map((text) => cell("th", text));
  list.replaceChildren(
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)),
    make("p", { className: "quiet" }, page.has_more ? `These are the first ${FAILED_SHOWN}; all: overnight failed ${batch.id}` : ""),
  );
  return "";
}
