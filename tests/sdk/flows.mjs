// What people do with the official Node SDK, unmodified: cases 95, 111 and 113 of the wire contract.
//
// Runs with openai-node from 4 on; `openai` is found from the folder in SDK_HOME. Needs OVERNIGHT_URL, a server whose
// engine answers and that asks for no key, and SDK_BUSY_URL with SDK_TEST_KEY, a server whose engine is
// down, so that its queue can be filled.

import assert from "node:assert/strict";
import { createReadStream, readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";

const sdkRequire = createRequire(join(process.env.SDK_HOME, "index.js"));
const sdk = sdkRequire("openai");
const OpenAI = sdk.OpenAI;
const version = JSON.parse(readFileSync(join(process.env.SDK_HOME, "node_modules/openai/package.json"))).version;
const name = `node openai ${version}`;

const MODEL = "sim-model";
const TERMINAL = new Set(["completed", "failed", "expired", "cancelled"]);
// A wait that is longer than this waits for something that will not come.
const WAIT_MAX_MS = 120_000;
const PAGES_MAX = 10_000;

const client = new OpenAI({ baseURL: `${process.env.OVERNIGHT_URL}/v1`, apiKey: "EMPTY" });
const busy = (options) =>
  new OpenAI({ baseURL: `${process.env.SDK_BUSY_URL}/v1`, apiKey: process.env.SDK_TEST_KEY, ...options });

// Version 4 says `del`, later ones `delete`.
const deleteFile = (id) => (client.files.delete ?? client.files.del).call(client.files, id);

/** `count` input lines; the prompt of the first tells the stand-in engine how to behave. */
function input(count, firstText = "Hi") {
  const lines = Array.from({ length: count }, (_, number) => ({
    custom_id: `row-${number}`,
    method: "POST",
    url: "/v1/chat/completions",
    body: { model: MODEL, messages: [{ role: "user", content: number === 0 ? firstText : `Question ${number}` }] },
  }));
  return Buffer.from(lines.map((line) => JSON.stringify(line) + "\n").join(""));
}

const createBatch = (on, fileId) =>
  on.batches.create({ input_file_id: fileId, endpoint: "/v1/chat/completions", completion_window: "24h" });

async function waitForEnd(on, id) {
  const deadline = Date.now() + WAIT_MAX_MS;
  for (;;) {
    const batch = await on.batches.retrieve(id);
    assert.equal(typeof batch, "object", "the answer came as a string");
    if (TERMINAL.has(batch.status)) return batch;
    assert.ok(Date.now() < deadline, `${id} is still ${batch.status}`);
    await sleep(50);
  }
}

async function rejects(kind, call) {
  try {
    await call();
  } catch (err) {
    assert.equal(err.constructor.name, kind, `${err}`);
    assert.ok(err.requestID ?? err.request_id, "no request id");
    assert.ok(err.error?.message, "no envelope");
    return err;
  }
  throw new Error(`no ${kind}`);
}

const header = (err, wanted) => (typeof err.headers.get === "function" ? err.headers.get(wanted) : err.headers[wanted]);

async function case111() {
  const folder = await mkdtemp(join(tmpdir(), "overnight-sdk-"));
  const data = input(20, "[[sim:delay_ms=300]]");
  const files = [];
  try {
    const path = join(folder, "in.jsonl");
    await writeFile(path, data);
    files.push(await client.files.create({ file: createReadStream(path), purpose: "batch" }));
    assert.equal(files[0].filename, "in.jsonl");
  } finally {
    await rm(folder, { recursive: true });
  }
  files.push(await client.files.create({ purpose: "batch", file: await sdk.toFile(data, "b.jsonl") }));
  files.push(
    await client.files.create({
      file: await sdk.toFile(data, "c.jsonl"),
      purpose: "batch",
      expires_after: { anchor: "created_at", seconds: 3600 },
    }),
  );
  assert.equal(files[2].expires_at, files[2].created_at + 3600);
  if (sdk.toStreamingFile) {
    const stream = Readable.from([data.subarray(0, 500), data.subarray(500)]);
    files.push(await client.files.create({ file: sdk.toStreamingFile(stream, "d.jsonl"), purpose: "batch" }));
  }
  for (const file of files) {
    assert.equal(file.bytes, data.length);
    assert.equal(file.status, "processed");
  }
  const ready = await client.files.waitForProcessing(files[0].id);
  assert.equal(ready.status, "processed");
  assert.equal(await (await client.files.content(files[0].id)).text(), data.toString());

  const batch = await waitForEnd(client, (await createBatch(client, files[0].id)).id);
  assert.equal(batch.status, "completed");
  assert.deepEqual(batch.request_counts, { total: 20, completed: 20, failed: 0 });
  const text = await (await client.files.content(batch.output_file_id)).text();
  const lines = text.trimEnd().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(lines.map((line) => line.custom_id), Array.from({ length: 20 }, (_, number) => `row-${number}`));
  assert.ok(lines.every((line) => line.response.status_code === 200 && line.error === null));

  for (const file of files.slice(1)) {
    assert.equal((await deleteFile(file.id)).deleted, true);
    await rejects("NotFoundError", () => client.files.retrieve(file.id));
  }
  return batch;
}

async function collect(pages) {
  const ids = [];
  for await (const item of pages) {
    ids.push(item.id);
    assert.ok(ids.length < PAGES_MAX, "the list has no end");
  }
  assert.equal(new Set(ids).size, ids.length, "an id came twice");
  return ids;
}

async function case095() {
  for (let more = 0; more < 3; more += 1) {
    const file = await client.files.create({ file: await sdk.toFile(input(1), "m.jsonl"), purpose: "batch" });
    await waitForEnd(client, (await createBatch(client, file.id)).id);
  }
  assert.ok((await collect(client.batches.list({ limit: 2 }))).length >= 4);
  assert.ok((await collect(client.files.list({ limit: 3 }))).length >= 4);
}

async function case113(completed) {
  const options = { input_file_id: completed.input_file_id, endpoint: "/v1/invalid", completion_window: "24h" };
  let err = await rejects("BadRequestError", () => client.batches.create(options));
  assert.deepEqual([err.code, err.param], ["invalid_value", "endpoint"]);
  err = await rejects("NotFoundError", () => client.files.retrieve("file-unknown"));
  assert.equal(err.param, "id");
  // Version 4 sends the slash raw, later ones encoded.
  err = await rejects("NotFoundError", () => client.models.retrieve("no/such:model"));
  assert.equal(err.code, "model_not_found");
  err = await rejects("ConflictError", () => client.batches.cancel(completed.id));
  assert.equal(header(err, "x-should-retry"), "false");
  err = await rejects("AuthenticationError", () => busy({ apiKey: "wrong" }).batches.list());
  assert.equal(err.code, "invalid_api_key");

  const impatient = busy({ maxRetries: 0 });
  const file = await impatient.files.create({ file: await sdk.toFile(input(2), "q.jsonl"), purpose: "batch" });
  const created = [];
  err = await rejects("RateLimitError", async () => {
    while (created.length < 20) created.push((await createBatch(impatient, file.id)).id);
  });
  const wait = Number(header(err, "retry-after"));
  assert.ok(wait >= 1 && wait <= 60, `Retry-After: ${wait}`);
  assert.ok(created.length > 0, "the queue refuses the first batch");
  for (const id of created) await impatient.batches.cancel(id);
  for (const id of created) assert.equal((await waitForEnd(impatient, id)).status, "cancelled");
}

let failed = 0;
async function run(label, call) {
  const started = Date.now();
  try {
    const value = await call();
    console.log(`case ${label} ${name} ok (${((Date.now() - started) / 1000).toFixed(1)} s)`);
    return value;
  } catch (err) {
    failed += 1;
    const where = /flows\.mjs:(\d+)/.exec(err.stack ?? "")?.[1] ?? "?";
    console.log(`case ${label} ${name} FAILED: line ${where}: ${err.name}: ${err.message}`);
    return undefined;
  }
}

const completed = await run("111", case111);
await run("095", case095);
if (completed !== undefined) await run("113", () => case113(completed));
process.exitCode = failed > 0 ? 1 : 0;
