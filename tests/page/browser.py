"""A headless Chromium on the two ends of a pipe: the DevTools protocol without a socket and without a package.

Messages are JSON, each ended by a zero byte; Chromium reads them from descriptor 3 and writes to descriptor 4. What it
reports by itself (console, network) is kept in lists, which is what the cases look at.
"""

import fcntl
import json
import os
import select
import subprocess
import time

ANSWER_WITHIN = 20


class Browser:
    def __init__(self, program, folder):
        os.makedirs(folder, exist_ok=True)
        self.log = open(os.path.join(folder, "..", "chromium.log"), "ab")
        to_browser, self.to = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in os.pipe())
        self.source, from_browser = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in os.pipe())

        def hand_over():
            os.dup2(to_browser, 3)
            os.dup2(from_browser, 4)

        arguments = [
            program, "--headless", "--remote-debugging-pipe", f"--user-data-dir={folder}", "--no-first-run",
            "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync",
            "--disable-component-update", "--disable-default-apps", "--disable-extensions", "--window-size=1200,1400",
        ]
        if os.getuid() == 0:
            arguments.append("--no-sandbox")
        self.process = subprocess.Popen(
            [*arguments, "about:blank"], preexec_fn=hand_over, pass_fds=(3, 4),
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.buffer = b""
        self.number = 0
        self.answers = {}
        self.listeners = {}

    def call(self, method, session=None, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + ANSWER_WITHIN
        while self.number not in self.answers:
            self.listen(end - time.monotonic())
            if time.monotonic() > end:
                raise TimeoutError(f"the browser does not answer {method}")
        answer = self.answers.pop(self.number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer.get("result", {})

    def listen(self, seconds):
        """Takes what comes within that time, at least one message when there is any."""
        ready, _, _ = select.select([self.source], [], [], max(seconds, 0))
        if not ready:
            return
        read = os.read(self.source, 1 << 20)
        if not read:
            raise RuntimeError("the browser has ended; chromium.log says why")
        self.buffer += read
        *messages, self.buffer = self.buffer.split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self.answers[message["id"]] = message
            elif message["method"] in self.listeners.get(message.get("sessionId"), {}):
                self.listeners[message["sessionId"]][message["method"]](message["params"])

    def close(self):
        try:
            self.call("Browser.close")
            self.process.wait(10)
        except (OSError, RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


class Page:
    """A tab with storage of its own."""

    def __init__(self, browser):
        self.browser = browser
        self.problems = []
        self.addresses = []
        context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self.context = context
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        browser.listeners[self.session] = {
            "Runtime.consoleAPICalled": self.on_console,
            "Runtime.exceptionThrown": lambda event: self.problems.append(str(event["exceptionDetails"])[:500]),
            "Log.entryAdded": self.on_log,
            "Network.requestWillBeSent": lambda event: self.addresses.append(event["request"]["url"]),
            "Page.javascriptDialogOpening": lambda event: self.problems.append(f"a dialog: {event['message']}"),
        }
        for domain in ["Runtime", "Log", "Network", "Page", "DOM"]:
            self.call(f"{domain}.enable")

    def on_console(self, event):
        if event["type"] in ("error", "warning", "assert"):
            self.problems.append(json.dumps(event["args"])[:500])

    def on_log(self, event):
        entry = event["entry"]
        if entry["level"] in ("error", "warning"):
            self.problems.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")

    def call(self, method, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def open(self, url):
        self.call("Page.navigate", url=url)

    def run(self, script):
        """The value of an expression, awaited where it is a promise."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise AssertionError(f"{script[:200]}: {details.get('exception', details).get('description', details)}")
        return answer["result"].get("value")

    def until(self, script, what, seconds=20):
        """Waits until an expression is true, and returns its value. One that fails is not true yet."""
        end = time.monotonic() + seconds
        while True:
            try:
                value = self.run(script)
            except (AssertionError, RuntimeError) as error:
                value, failed = None, error
            else:
                failed = None
            if value:
                return value
            if time.monotonic() > end:
                text = self.run("document.body.innerText")
                raise AssertionError(f"not reached: {what} ({failed}); the page says:\n{text[:3000]}")
            self.browser.listen(0.05)
