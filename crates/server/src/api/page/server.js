// The server itself: how it is, how fast it goes, its endpoints, GPUs and limits, and what failed last.

import { by, facts, keep, make, say, sayOrHide } from "./elements.js";
import * as words from "./words.js";

export function showServer({ health, rate, failures, unfinished, now_ms }) {
  const wellness = by("wellness");
  wellness.hidden = false;
  wellness.dataset.state = health.status;
  say(wellness, health.status);
  say(by("version"), `${health.version}, up for ${words.span(health.uptime_seconds)}`);
  by("reasons").hidden = health.reasons.length === 0;
  keep(by("reasons"), health.reasons, (reason) => reason, (reason) => make("li", {}, reason), () => {});
  showRate(rate);
  showFigures(health, unfinished);
  showFailures(failures);
  showEngines(health.engines, now_ms);
  showGpus(health.gpu);
  showLimits(health.limits);
  const running = unfinished.data.filter((batch) => batch.request_counts.total > 0);
  const [done, total] = running.reduce(
    ([done, total], { request_counts: counts }) => [done + counts.completed + counts.failed, total + counts.total],
    [0, 0],
  );
  document.title = total > 0 ? `${words.percent(done, total)} Overnight` : "Overnight";
}

function showRate(rate) {
  say(by("rate"), words.rate(rate.per_second));
  const steps = rate.steps.map((done) => done / rate.step_seconds);
  const peak = Math.max(...steps, 0);
  const [width, height] = [240, 40];
  const points = steps.map((value, at) => {
    const x = steps.length > 1 ? (at * width) / (steps.length - 1) : width;
    const y = height - 1 - (peak > 0 ? (value / peak) * (height - 3) : 0);
    return `${x.toFixed(1)} ${y.toFixed(1)}`;
  });
  const line = points.length > 1 ? `M${points.join("L")}` : "";
  const course = by("course");
  course.firstElementChild.setAttribute("d", line);
  const seen = words.span(steps.length * rate.step_seconds);
  const text = steps.length > 1 ? `over ${seen}, at most ${words.rate(peak)} a second` : "";
  course.setAttribute("aria-label", text ? `Rate ${text}` : "No results yet");
  say(by("course-span"), text);
}

/** What is left of the batches that are shown, or where not all are shown, of everybody's. */
function left({ data, has_more }, queue) {
  if (has_more) return queue.total_queued_requests;
  return data.reduce((sum, { request_counts: { total, completed, failed } }) => sum + total - completed - failed, 0);
}

function showFigures({ queue, limits, disk, gpu }, unfinished) {
  const room = (limit) => `room for ${words.count(limit)}, large batches beside`;
  say(by("backlog"), words.count(left(unfinished, queue)));
  say(by("backlog-more"), room(limits.queued_requests));
  say(by("unfinished-count"), words.count(queue.active_jobs));
  say(by("unfinished-more"), room(limits.unfinished_batches));
  say(by("disk"), words.size(disk.free_bytes));
  say(by("disk-more"), disk.full ? "the disk is full: nothing is taken or sent" : "");
  say(by("gpu"), gpu.temperature_c == null ? words.unknown : `${words.count(gpu.temperature_c)} °C`);
  const memory = gpu.memory_percent == null ? "" : `memory ${words.count(gpu.memory_percent)} %`;
  say(by("gpu-more"), [memory, gpu.reason].filter(Boolean).join("; ") || "not known");
}

function showFailures(failures) {
  by("failures-none").hidden = failures.length > 0;
  const kinds = new Map();
  for (const failure of failures) {
    const kind = [failure.batch, failure.error_type, failure.status_code, failure.error_message].join(" ");
    kinds.set(kind, [...(kinds.get(kind) ?? []), failure]);
  }
  keep(
    by("failures"),
    [...kinds.entries()],
    ([kind]) => kind,
    ([, [failure]]) =>
      make(
        "li",
        {},
        make("span", { className: "chip", "data-state": "failed" }, failure.error_type),
        make("code", {}, failure.custom_id),
        make("span", {}, failure.status_code ? `${failure.status_code} ` : "", failure.error_message),
        make(
          "span",
          { className: "quiet" },
          `${words.moment(failure.failed_at)}${failure.endpoint ? ` at ${failure.endpoint}` : ""}, ${failure.batch}`,
        ),
        make("span", { className: "quiet" }),
      ),
    (line, [, alike]) => say(line.lastElementChild, alike.length > 1 ? `and ${alike.length - 1} alike` : ""),
  );
}

function showEngines(engines, now) {
  by("engines-none").hidden = engines.length > 0;
  keep(
    by("engines"),
    engines,
    (engine) => engine.name,
    (engine) =>
      make(
        "article",
        { className: "card" },
        make("h3", {}, engine.name),
        make("span", { className: "chip" }),
        make("p", { className: "why", hidden: true }),
        make("dl", { className: "facts" }),
        make("ul", { className: "notices" }),
      ),
    (card, engine) => showEngine(card, engine, now),
  );
  const models = [...new Set(engines.flatMap((engine) => engine.models ?? []))];
  keep(by("models"), models, (model) => model, (model) => make("option", { value: model }), () => {});
}

function showEngine(card, engine, now) {
  const [, chip, why, list, notices] = card.children;
  const told = engine.facts;
  chip.dataset.state = engine.state;
  say(chip, engine.state);
  sayOrHide(why, engine.reason);
  const flavour = told && told.flavour !== "other" ? told.flavour.replace("_", ".") : engine.kind;
  facts(list, [
    ["engine", [flavour, told?.version].filter(Boolean).join(" ")],
    ["address", engine.url],
    ["models", engine.models ? engine.models.join(", ") : "not told yet"],
    ["in flight", `${words.count(engine.in_flight)}, window ${words.count(engine.window)}`],
    ["its load", load(told?.load)],
    ["its capacity", capacity(told?.capacity)],
    ...own(engine.process, now),
    ["last answer", engine.last_answer_at ? `${words.span((now - engine.last_answer_at) / 1000)} ago` : ""],
  ]);
  keep(notices, told?.notices ?? [], (text) => text, (text) => make("li", {}, text), () => {});
}

/** The process of an engine that is started here. */
function own(process, now) {
  if (!process) return [];
  const ready = process.ready_since == null ? "" : `, ready for ${words.span((now - process.ready_since) / 1000)}`;
  return [
    ["process", process.state.replace("_", " ") + ready],
    ["took to load", process.load_seconds == null ? "" : words.span(process.load_seconds)],
    ["restarts", process.restarts > 0 ? words.count(process.restarts) : ""],
    ["failure", process.failure],
    ["last line", process.last_line],
    ["log", process.log],
  ];
}

function load(load) {
  if (!load) return "";
  const parts = [];
  if (load.running != null) parts.push(`${words.count(load.running)} running`);
  if (load.waiting != null) parts.push(`${words.count(load.waiting)} waiting`);
  if (load.kv_usage != null) parts.push(`KV cache ${words.percent(load.kv_usage, 1)}`);
  return parts.join(", ");
}

function capacity(capacity) {
  if (!capacity) return "";
  const parts = [];
  if (capacity.slots != null) parts.push(`${words.count(capacity.slots)} at once`);
  if (capacity.permits != null) parts.push(`busy beyond ${words.count(capacity.permits)}`);
  if (capacity.kv_tokens != null) parts.push(`${words.count(capacity.kv_tokens)} tokens`);
  return parts.join(", ");
}

function showGpus(gpu) {
  const devices = gpu.devices ?? [];
  by("gpus-section").hidden = devices.length === 0;
  keep(
    by("gpus"),
    devices,
    (device) => String(device.index),
    () =>
      make(
        "article",
        { className: "card" },
        make("h3"),
        make("span", { className: "chip" }),
        make("dl", { className: "facts" }),
      ),
    (card, device) => {
      const [title, chip, list] = card.children;
      say(title, `${device.index}: ${device.name ?? "GPU"}`);
      chip.dataset.state = heats[device.heat] ?? "";
      say(chip, (device.heat ?? "unknown").replace("_", " "));
      const known = (value, unit) => (value == null ? "" : `${words.count(value)} ${unit}`);
      const used = device.memory_used_bytes;
      facts(list, [
        ["temperature", known(device.temperature_c, "°C")],
        ["memory", used == null ? "" : `${words.size(used)} of ${words.size(device.memory_total_bytes)}`],
        ["busy", known(device.utilization_percent, "%")],
        ["power", known(device.power_watts, "W")],
        ["processes", device.processes?.map(({ pid, memory_bytes }) => process(pid, memory_bytes)).join(", ")],
        ["trouble", device.trouble],
      ]);
    },
  );
}

const heats = { fine: "healthy", warm: "degraded", too_hot: "unhealthy" };

function process(pid, memory) {
  return memory == null ? String(pid) : `${pid} (${words.size(memory)})`;
}

function showLimits(limits) {
  facts(by("limits"), [
    ["profile", limits.profile],
    ["requests a batch", words.count(limits.requests_per_batch)],
    ["unfinished batches", words.count(limits.unfinished_batches)],
    ["requests that wait", words.count(limits.queued_requests)],
    ["a file", words.size(limits.file_len)],
    ["a request", words.size(limits.request_len)],
  ]);
}
