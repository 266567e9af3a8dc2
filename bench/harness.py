"""What the benches need: programs, the stand-in, the server, its API, and what the system says of a process.

Standard library only. Everything runs in a temporary folder and ends by its process id.
"""

import http.client
import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


def build():
    """Release builds of what is measured. Cargo says when there is nothing to do."""
    run = ["cargo", "build", "--release", "--quiet"]
    subprocess.run(run + ["-p", "overnight-server", "-p", "overnight-sim"], cwd=ROOT, check=True)
    subprocess.run(
        run + ["--manifest-path", str(ROOT / "bench/bare/Cargo.toml"), "--target-dir", str(TARGET)], check=True
    )


def program(name):
    return str(TARGET / "release" / name)


def make_input(path, requests, length, directive=None, route=None):
    """An input file of the stand-in's generator, the same every time."""
    command = [program("overnight-sim"), "make", "--requests", str(requests), "--len", str(length)]
    if directive:
        command += ["--directive", directive]
    if route:
        command += ["--route", route]
    with open(path, "wb") as out:
        subprocess.run(command, stdout=out, check=True)


class Folder:
    """A temporary folder on a real disk: `TMPDIR` says where."""

    def __enter__(self):
        self.path = Path(tempfile.mkdtemp(prefix="overnight-bench."))
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)


class Process:
    def __init__(self, command, log, **options):
        self.log = open(log, "wb")
        self.child = subprocess.Popen(command, stderr=self.log, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.log.close()

    def cpu(self):
        """User and system time in seconds."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self):
        """`VmHWM` counts mapped files; `RssAnon` and `RssFile` are the moment's. Bytes."""
        text = Path(f"/proc/{self.child.pid}/status").read_text()
        return {name: int(size) * 1024 for name, size in re.findall(r"^(VmHWM|VmRSS|RssAnon|RssFile):\s+(\d+) kB", text, re.M)}


class Sim(Process):
    """The stand-in on one thread."""

    def __init__(self, folder, *options):
        command = [program("overnight-sim"), "--threads", "1", *options]
        super().__init__(command, folder / "sim.log", stdout=subprocess.PIPE, text=True)
        self.address = self.child.stdout.readline().strip()


class Server(Process):
    def __init__(self, folder, sim, window=64, files=None, profile="desktop", engine=""):
        self.data = folder / "data"
        config = folder / "overnight.toml"
        config.write_text(
            f'[[engine]]\nname = "sim"\nkind = "openai"\nurl = "http://{sim.address}/v1"\nconcurrency = {window}\n{engine}'
        )
        self.port = free_port()
        command = [program("overnight"), "serve", "--config", str(config), "--data", str(self.data)]
        command += ["--listen", f"127.0.0.1:{self.port}", "--profile", profile]
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
        super().__init__(command, folder / "server.log", stdout=subprocess.DEVNULL, preexec_fn=limit)
        self.connection = None
        wait_until(30, "the server is ready", self.is_ready)

    def is_ready(self):
        try:
            return self.get("/health/ready")[0] == 200
        except OSError:
            return False

    def request(self, method, path, body=None, headers=None):
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            self.connection.request(method, path, body, headers or {})
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.connection = None
            raise

    def get(self, path):
        return self.request("GET", path)

    def json(self, method, path, body=None):
        text = json.dumps(body) if body is not None else None
        status, answer = self.request(method, path, text, {"content-type": "application/json"})
        if status != 200:
            sys.exit(f"{method} {path}: {status} {answer[:500].decode(errors='replace')}")
        return json.loads(answer)

    def upload(self, path):
        """Streams the file; the server's memory is measured, not ours."""
        edge = "overnight-bench-edge"
        field = f'--{edge}\r\ncontent-disposition: form-data; name="{{}}"\r\n\r\n{{}}\r\n'
        head = field.format("purpose", "batch") + field.format("overnight[large]", "true")
        head += f'--{edge}\r\ncontent-disposition: form-data; name="file"; filename="input.jsonl"\r\n\r\n'
        head, tail = head.encode(), f"\r\n--{edge}--\r\n".encode()

        def pieces():
            yield head
            with open(path, "rb") as file:
                while piece := file.read(MIB):
                    yield piece
            yield tail

        length = len(head) + os.path.getsize(path) + len(tail)
        headers = {"content-type": f"multipart/form-data; boundary={edge}", "content-length": str(length)}
        status, answer = self.request("POST", "/v1/files", pieces(), headers)
        if status != 200:
            sys.exit(f"upload: {status} {answer[:500].decode(errors='replace')}")
        return json.loads(answer)["id"]

    def create(self, file, route="/v1/chat/completions"):
        body = {"input_file_id": file, "endpoint": route, "completion_window": "24h"}
        return self.json("POST", "/v1/batches", body | {"overnight": {"large": True}})["id"]

    def watch(self, batch, every=0.01, limit=3600.0):
        """Polls until the batch has ended. Gives the moments at which a status was first seen."""
        seen, end = {}, time.monotonic() + limit
        while time.monotonic() < end:
            view = self.json("GET", f"/v1/batches/{batch}")
            seen.setdefault(view["status"], time.monotonic())
            if view["status"] in ("completed", "failed", "expired", "cancelled"):
                return view, seen
            time.sleep(every)
        sys.exit(f"batch {batch} did not end within {limit:.0f} s: {view}")


class Sampler:
    """The peak of a process's anonymous memory, looked at every 20 ms."""

    def __init__(self, process):
        self.process, self.peak, self.peak_file = process, 0, 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.over.wait(0.02):
            memory = self.process.memory()
            self.peak = max(self.peak, memory.get("RssAnon", 0))
            self.peak_file = max(self.peak_file, memory.get("RssFile", 0))

    def take(self):
        """The peaks since the last time."""
        peaks, self.peak, self.peak_file = (self.peak, self.peak_file), 0, 0
        return peaks

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Report:
    """Lines of PASS and FAIL, and the exit code that follows from them."""

    def __init__(self):
        self.failed = 0

    def judge(self, what, value, bound, at_least, unit=""):
        passed = value >= bound if at_least else value <= bound
        self.failed += not passed
        sign = ">=" if at_least else "<="
        print(f"{'PASS' if passed else 'FAIL'}  {what}: {value:.4g}{unit} ({sign} {bound:g}{unit})", flush=True)


def wait_until(seconds, what, is_so):
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            sys.exit(f"gave up waiting: {what}")
        time.sleep(0.02)


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def median(values):
    return statistics.median(values)


def machine():
    """What the figures depend on."""
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores of {model}, load {load:.2f} at the start"
