// Asks for the overview again and again, and shows it.

import * as api from "./api.js";
import { showEnded, showUnfinished } from "./batches.js";
import { by, say, sayOrHide } from "./elements.js";
import { showServer } from "./server.js";
import { watchForFiles } from "./submit.js";
import * as words from "./words.js";

const EVERY = 2_000;
const EVERY_HIDDEN = 30_000;
const EVERY_AWAY_MAX = 30_000;

let timer;
let isAsking = false;
let isWanted = false;
let silences = 0;
let answeredAt;

/** Asks now; while one call is under way, once more behind it. */
async function refresh() {
  if (isAsking) {
    isWanted = true;
    return;
  }
  isAsking = true;
  clearTimeout(timer);
  try {
    show(await api.get("/v1/overview"));
    silences = 0;
    answeredAt = Date.now();
    say(by("link"), "");
    by("forget-key").hidden = !api.key.get();
  } catch (error) {
    if (!(error instanceof api.Refusal)) throw error;
    if (error.status === 401) return askForKey(error.message);
    silences += 1;
    sayAway(error);
  } finally {
    isAsking = false;
    if (by("key-form").hidden) timer = setTimeout(refresh, isWanted ? 0 : pause());
    isWanted = false;
  }
}

function pause() {
  if (silences > 0) return Math.min(EVERY * 2 ** (silences - 1), EVERY_AWAY_MAX);
  return document.hidden ? EVERY_HIDDEN : EVERY;
}

function sayAway(error) {
  const since = answeredAt ? `; what is shown is of ${words.moment(answeredAt / 1000)}` : "";
  say(by("link"), `${error.message}${since}; asking again every ${words.span(pause() / 1000)}`);
}

function show(overview) {
  by("key-form").hidden = true;
  by("all").hidden = false;
  document.body.classList.toggle("is-admin", overview.admin);
  const actions = { refresh, note };
  showServer(overview);
  showUnfinished(overview.unfinished, actions);
  showEnded(overview.ended, actions);
}

let noteTimer;

/** Says what came of an action. */
function note(text) {
  sayOrHide(by("said"), text);
  clearTimeout(noteTimer);
  noteTimer = setTimeout(() => sayOrHide(by("said"), ""), 15_000);
}

function askForKey(message) {
  say(by("key-why"), api.key.get() ? message : "");
  by("all").hidden = true;
  by("key-form").hidden = false;
  by("key").focus();
}

// With another key everything begins anew: nothing of what the last one showed may be left.

by("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.key.set(by("key").value.trim());
  by("key").value = "";
  location.reload();
});

by("forget-key").addEventListener("click", () => {
  api.key.forget();
  location.reload();
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && by("key-form").hidden) refresh();
});

watchForFiles({ refresh, note });
refresh();
