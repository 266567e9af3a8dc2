// Submitting files: chosen, or dropped anywhere on the page. Each becomes a batch of its own.

import * as api from "./api.js";
import { by, make, say } from "./elements.js";
import * as words from "./words.js";

/** The first line is looked for in so much of a file. */
const HEAD_LEN = 1 << 20;
/** What metadata takes, in characters of any length. */
const NAME_LEN = 128;
const ROUTE_DEFAULT = "/v1/chat/completions";

export function watchForFiles(actions) {
  by("submit").addEventListener("submit", (event) => {
    event.preventDefault();
    const files = [...by("files").files];
    by("files").value = "";
    submitAll(files, actions);
  });
  const drop = by("drop");
  let depth = 0;
  const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const leave = () => {
    depth = 0;
    drop.hidden = true;
  };
  document.addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    depth += 1;
    drop.hidden = by("all").hidden;
  });
  document.addEventListener("dragleave", (event) => {
    if (hasFiles(event) && --depth <= 0) leave();
  });
  document.addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    leave();
    if (!by("all").hidden) submitAll([...event.dataTransfer.files], actions);
  });
}

/** One after the other: two uploads at once are no faster. */
async function submitAll(files, actions) {
  for (const file of files) {
    const line = make("li", {}, `${file.name}, ${words.size(file.size)}: `);
    const state = make("span", {}, "being read");
    const bar = make("progress", { max: 1, value: 0, "aria-label": `Upload of ${file.name}` });
    line.append(state, " ", bar);
    by("sending").append(line);
    try {
      const batch = await submit(file, (loaded, total) => {
        bar.value = total > 0 ? loaded / total : 0;
        say(state, loaded < total ? `${words.percent(loaded, total)} sent` : "being stored");
      });
      line.remove();
      actions.note(`${file.name} is submitted as ${batch.id}`);
    } catch (error) {
      bar.remove();
      say(state, error.message);
      line.append(make("button", { type: "button", onclick: () => line.remove() }, "Dismiss"));
    }
    actions.refresh();
  }
}

async function submit(file, onProgress) {
  const form = new FormData();
  form.set("endpoint", await routeOf(file));
  form.set("completion_window", "24h");
  form.set("metadata[name]", file.name.slice(0, NAME_LEN));
  const model = by("new-model").value.trim();
  if (model) form.set("model", model);
  const priority = by("new-priority").value;
  if (priority) form.set("overnight[priority]", priority);
  if (document.body.classList.contains("is-admin")) form.set("overnight[large]", "true");
  form.set("file", file);
  return api.upload("/v1/batches", form, onProgress);
}

/** The route that the first line names. What is no JSON is refused by the server, with its reason. */
async function routeOf(file) {
  const head = await file.slice(0, HEAD_LEN).text().catch(() => {
    throw new api.Refusal(0, "the browser cannot read it");
  });
  const line = head.replace(/^\uFEFF/, "").split("\n").find((line) => line.trim());
  try {
    return JSON.parse(line).url ?? ROUTE_DEFAULT;
  } catch {
    return ROUTE_DEFAULT;
  }
}
