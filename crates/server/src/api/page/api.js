// Calls of the server, with the key where it wants one. The same API as everybody's.

const KEY = "overnight-key";
const PATIENCE = 20_000;

/** What the server refused, or that it did not answer (status 0). */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export function headers() {
  return key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
}

/** The message of a refusal, in the server's own words where it has any. */
export function messageOf(status, text) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `the server answered ${status}`;
  }
}

async function send(method, path, body, patience) {
  const options = { method, headers: headers(), cache: "no-store" };
  if (patience) options.signal = AbortSignal.timeout(patience);
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Refusal(0, "the server does not answer");
  }
  if (!response.ok) {
    const text = await response.text().catch(() => "");
    throw new Refusal(response.status, messageOf(response.status, text));
  }
  return response;
}

async function json(method, path, body) {
  const response = await send(method, path, body, PATIENCE);
  try {
    return await response.json();
  } catch {
    throw new Refusal(0, "the server's answer broke off");
  }
}

export const get = (path) => json("GET", path);
export const post = (path, body) => json("POST", path, body);

/** Saves a file of the server. Without a key the browser streams it; with one it has to pass through this page. */
export async function download(file, name) {
  const path = `/v1/files/${encodeURIComponent(file)}/content`;
  const link = document.createElement("a");
  link.download = name;
  if (key.get()) {
    const blob = await (await send("GET", path)).blob();
    link.href = URL.createObjectURL(blob);
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } else {
    link.href = path;
  }
  document.body.append(link);
  link.click();
  link.remove();
}

/** Sends a form and tells how far it is, which `fetch` cannot. */
export function upload(path, form, onProgress) {
  return new Promise((done, failed) => {
    const call = new XMLHttpRequest();
    call.open("POST", path);
    for (const [name, value] of Object.entries(headers())) call.setRequestHeader(name, value);
    call.upload.onprogress = (event) => onProgress(event.loaded, event.total);
    call.onload = () => {
      if (call.status === 200) done(JSON.parse(call.responseText));
      else failed(new Refusal(call.status, messageOf(call.status, call.responseText)));
    };
    call.onerror = () => failed(new Refusal(0, "the connection was lost; nothing was submitted"));
    call.send(form);
  });
}
