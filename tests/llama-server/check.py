#!/usr/bin/env python3
"""A batch of 500 through a real llama-server, both sides killed in the middle.

    check.py OVERNIGHT LLAMA_SERVER MODEL.gguf

Standard library only. Everything runs in a temporary folder and ends by its process id.
"""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

REQUESTS = 500
SLOTS = 4
CONTEXT = 4096
WITHIN_S = 300


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def get(url, path):
    with urllib.request.urlopen(url + path, timeout=10) as reply:
        return json.load(reply)


def wait_until(what, is_so, within_s=60):
    """The last thing that was seen is what a failure shows."""
    until, seen = time.monotonic() + within_s, None
    while time.monotonic() < until:
        with contextlib.suppress(OSError, urllib.error.URLError):
            seen = is_so()
            if seen:
                return seen
        time.sleep(0.05)
    raise SystemExit(f"not within {within_s} s: {what}; last seen: {seen}")


class Run:
    """The two programs, their folder and their ports."""

    def __init__(self, folder, overnight, llama_server, model):
        self.folder, self.overnight = folder, overnight
        self.llama_server, self.model = llama_server, model
        self.engine_port, self.port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.engine = self.server = None

    def start_engine(self):
        command = [self.llama_server, "--model", self.model, "--port", str(self.engine_port), "--metrics", "--slots"]
        command += ["--parallel", str(SLOTS), "--ctx-size", str(CONTEXT * SLOTS), "--threads", "1", "--alias", "random"]
        log = open(self.folder / "llama-server.log", "ab")
        self.engine = subprocess.Popen(command, stdout=log, stderr=log)

    def start_server(self):
        config = self.folder / "overnight.toml"
        config.write_text(f'[[engine]]\nname = "llama"\nkind = "openai"\nurl = "http://127.0.0.1:{self.engine_port}/v1"\n')
        command = [self.overnight, "serve", "--config", config, "--data", self.folder / "data"]
        log = open(self.folder / "overnight.log", "ab")
        self.server = subprocess.Popen([*command, "--listen", f"127.0.0.1:{self.port}"], stdout=log, stderr=log)
        wait_until("the server is ready", lambda: get(self.url, "/health/ready"))

    def end(self):
        for child in filter(None, [self.server, self.engine]):
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def client(self, *arguments):
        done = subprocess.run([self.overnight, *arguments, "--server", self.url], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"overnight {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def facts(self):
        [endpoint] = get(self.url, "/health")["engines"]
        return endpoint["facts"]

    def answered(self, batch):
        counts = get(self.url, f"/v1/batches/{batch}")["request_counts"]
        return counts["completed"] + counts["failed"]


def make_input(path):
    with open(path, "w") as out:
        for number in range(REQUESTS):
            body = {
                "model": "random",
                "messages": [{"role": "user", "content": f"Say something about the number {number}."}],
                "max_tokens": 24,
                "temperature": 0,
            }
            line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            out.write(json.dumps(line) + "\n")


def check_facts(run):
    """What `/props`, `/slots` and `/metrics` of the real thing say must arrive."""

    def told():
        facts = run.facts()
        return facts if facts and facts["load"]["prompt_tokens_total"] is not None else None

    facts = wait_until("the engine tells of itself", told, 30)
    assert facts["flavour"] == "llama_cpp", facts
    assert facts["capacity"]["slots"] == SLOTS, facts
    assert facts["models"][0]["context_len"] == CONTEXT, facts
    assert facts["load"]["running"] is not None, facts
    print(f"told: {facts['version']}, {facts['capacity']['slots']} slots, context {facts['models'][0]['context_len']}")


def check_output(run, batch):
    output = run.folder / "output.jsonl"
    run.client("results", batch, "--output", str(output))
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == [f"r{number}" for number in range(REQUESTS)]
    for line in lines:
        body = line["response"]["body"]
        assert line["response"]["status_code"] == 200 and line["error"] is None, line
        assert body["usage"]["completion_tokens"] > 0, line
        assert body["choices"][0]["finish_reason"] in ("stop", "length"), line
    print(f"output: {len(lines)} lines in input order, each with an answer")


def main(overnight, llama_server, model):
    folder = Path(tempfile.mkdtemp(prefix="overnight-llama-server."))
    run = Run(folder, overnight, llama_server, model)
    try:
        make_input(folder / "input.jsonl")
        run.start_engine()
        run.start_server()
        wait_until("the engine has its model", lambda: get(f"http://127.0.0.1:{run.engine_port}", "/health"))
        started = time.monotonic()
        batch = json.loads(run.client("submit", str(folder / "input.jsonl"), "--json"))["id"]
        check_facts(run)

        wait_until("a fifth is answered", lambda: run.answered(batch) >= REQUESTS // 5, WITHIN_S)
        run.engine.kill()
        run.engine.wait()
        print(f"llama-server killed at {run.answered(batch)}")
        run.start_engine()

        wait_until("half is answered", lambda: run.answered(batch) >= REQUESTS // 2, WITHIN_S)
        before = run.answered(batch)
        run.server.kill()
        run.server.wait()
        run.start_server()
        after = run.answered(batch)
        assert after >= before, f"{after} after the restart, {before} before"
        print(f"overnight killed at {before}, back with {after}")

        status = wait_until("the batch ends", lambda: ended(run, batch), WITHIN_S)
        counts = status["request_counts"]
        assert status["status"] == "completed", status
        assert counts == {"total": REQUESTS, "completed": REQUESTS, "failed": 0}, counts
        print(f"completed: {counts['completed']} of {counts['total']} in {time.monotonic() - started:.0f} s")
        check_output(run, batch)
        print(run.client("verify", batch).strip())
    finally:
        run.end()
    shutil.rmtree(folder)


def ended(run, batch):
    status = get(run.url, f"/v1/batches/{batch}")
    return status if status["status"] in ("completed", "failed", "expired", "cancelled") else None


if __name__ == "__main__":
    main(*sys.argv[1:])
