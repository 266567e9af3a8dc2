"""What the page has to do, case by case, in a real browser."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from browser import Browser, Page

WORK = sys.argv[1]
KEY = "test-key-of-the-page"
STRANGERS_KEY = "test-key-of-another-tenant"
PATIENCE = 30
HOSTILE = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"


class Server:
    def __init__(self, name, settings="", key=None):
        self.name, self.key = name, key
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{self.address}"
        engine = f'[[engine]]\nname = "{name}-engine"\nkind = "openai"\nurl = "{os.environ["ENGINE_URL"]}"\n'
        self.config = os.path.join(WORK, f"{name}.toml")
        with open(self.config, "w") as file:
            file.write(engine + settings)
        self.up()

    def up(self):
        log = open(os.path.join(WORK, f"{self.name}.log"), "ab")
        arguments = ["serve", "--listen", self.address, "--config", self.config]
        data = os.path.join(WORK, self.name)
        environment = {**os.environ, "PAGE_TEST_KEY": KEY, "PAGE_TEST_STRANGERS_KEY": STRANGERS_KEY}
        self.process = subprocess.Popen(
            [os.environ["BIN_OVERNIGHT"], *arguments, "--data", data], stdout=log, stderr=log, env=environment
        )
        wait_until(self.is_ready, f"server `{self.name}` is ready")

    def is_ready(self):
        try:
            return self.call("GET", "/health/ready")["status"] == "ready"
        except OSError:
            return False

    def down(self):
        self.process.kill()
        self.process.wait()

    def call(self, method, path, body=None, headers=None):
        headers = dict(headers or {})
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url + path, method=method, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            content = answer.read()
        return json.loads(content) if answer.headers["Content-Type"] == "application/json" else content

    def submit(self, lines, name=None, priority=0):
        body = b""
        fields = {"overnight[large]": "true", "overnight[priority]": str(priority)}
        if name:
            fields["metadata[name]"] = name
        for field, value in fields.items():
            body += f'--sep\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
        body += b'--sep\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
        body += "".join(lines).encode() + b"\r\n--sep--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=sep"}
        return self.call("POST", "/v1/batches", body, headers)["id"]

    def batch(self, id):
        return self.call("GET", f"/v1/batches/{id}")


def wait_until(is_there, what):
    end = time.monotonic() + PATIENCE
    while True:
        value = is_there()
        if value:
            return value
        assert time.monotonic() < end, f"gave up waiting: {what}"
        time.sleep(0.05)


def line(custom_id, prompt):
    body = {"model": "sim-model", "messages": [{"role": "user", "content": prompt}]}
    request = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(request) + "\n"


def plain(count, word):
    return [line(f"{word}-{at}", f"{word} {at}") for at in range(count)]


def card(id):
    return f'document.querySelector(\'.batch[data-key="{id}"]\')'


def press(page, id, button):
    """Presses a button of a batch as a person can: only when it is shown."""
    page.until(f"{card(id)}?.querySelector('button.{button}')?.checkVisibility()", f"`{button}` of {id} is shown")
    page.run(f"{card(id)}.querySelector('button.{button}').click()")


def counts(page, id):
    """Done and total, as they stand in the page."""
    text = page.until(f"{card(id)}?.querySelector('.counts').textContent.match(/^[\\d,]+ of [\\d,]+/)?.[0]", f"counts of {id}")
    done, total = text.replace(",", "").split(" of ")
    return int(done), int(total)


def done(batch):
    return batch["request_counts"]["completed"] + batch["request_counts"]["failed"]


def shows_progress_as_the_api_has_it(page, server, running):
    page.open(server.url + "/")
    page.until(card(running), "the running batch is shown")
    for _ in range(3):
        before = done(server.batch(running))
        # What the page asks for after `before` was read is not older.
        page.run("document.dispatchEvent(new Event('visibilitychange'))")
        first = counts(page, running)[0]
        page.until(
            f"{card(running)}.querySelector('.counts').textContent.split(' of ')[0].replace(',', '') >= {max(before, first + 1)}",
            "the numbers of the page move and are not older than the API's",
        )
        shown, total = counts(page, running)
        assert before <= shown <= done(server.batch(running)), (before, shown)
        assert total == server.batch(running)["request_counts"]["total"]
    page.until("document.getElementById('rate').textContent !== '–'", "the rate is shown")
    page.until(f"{card(running)}.querySelector('.counts').textContent.includes('a second')", "the batch has a rate")
    backlog = int(page.run("document.getElementById('backlog').textContent").replace(",", ""))
    batch = server.batch(running)
    assert 0 < batch["request_counts"]["total"] - done(batch) <= backlog <= batch["request_counts"]["total"], backlog
    width = page.run(f"parseFloat({card(running)}.querySelector('.done').style.width)")
    assert 0 < width <= 100, width
    health = server.call("GET", "/health")
    engine = page.run("document.getElementById('engines').innerText")
    for wanted in [health["engines"][0]["name"], health["engines"][0]["url"], "up", "window"]:
        assert wanted in engine, (wanted, engine)
    limits = page.run("document.getElementById('limits').innerText")
    assert f"{health['limits']['requests_per_batch']:,}" in limits, limits
    assert page.run("document.title").endswith("Overnight")


def shows_hostile_texts_as_text(page, server, hostile):
    wait_until(lambda: server.batch(hostile)["status"] == "completed", "the hostile batch ends")
    heading = page.until(f"{card(hostile)}?.querySelector('h3').textContent", "the hostile batch is shown")
    assert heading == HOSTILE, heading
    press(page, hostile, "failed")
    table = page.until(f"{card(hostile)}.querySelector('table')?.textContent", "its failed requests are listed")
    failures = page.until("document.getElementById('failures').textContent", "the last errors are shown")
    for text in (table, failures):
        assert "onerror=window.hacked" in text and HOSTILE in text, text
    markup = "document.querySelectorAll('img, iframe, object, main script, svg script, [onerror]').length"
    assert page.run(markup) == 0
    assert page.run("window.hacked === undefined")


def shows_what_engines_and_gpus_tell(page, server):
    """What this machine has none of: an engine that we start, and a GPU. Each text of theirs may be hostile."""
    overview = server.call("GET", "/v1/overview")
    engine = overview["health"]["engines"][0]
    engine["state"], engine["reason"] = "withheld", "it is being started"
    engine["facts"] = {
        "flavour": "llama_cpp", "version": "b4242", "models": [], "notices": [f"set more slots {HOSTILE}"],
        "capacity": {"slots": 4, "permits": None, "kv_tokens": 65536},
        "load": {"running": 3, "waiting": 17, "kv_usage": 0.25},
    }
    engine["process"] = {
        "state": "starting", "ready_since": None, "restarts": 2, "failures": 1, "failure": "it ended with 1",
        "load_seconds": 75.5, "last_line": HOSTILE, "gpu": 0, "log": "logs/big.log",
    }
    overview["health"]["gpu"] = {
        "healthy": False, "memory_percent": 91.5, "temperature_c": 86, "reason": "GPU 0 has 86 degrees",
        "devices": [{
            "index": 0, "name": "RTX 4080", "uuid": "GPU-1", "memory_used_bytes": 15_000_000_000,
            "memory_total_bytes": 16_400_000_000, "temperature_c": 86, "power_watts": 301.4, "heat": "too_hot",
            "utilization_percent": 99, "processes": [{"pid": 42, "memory_bytes": 14_900_000_000}], "trouble": None,
        }],
    }
    # The next refresh overwrites it: it is read in the same breath.
    text = page.run(
        f"""import("/page/server.js").then((server) => {{
            server.showServer({json.dumps(overview)});
            return ["engines", "gpus", "gpu", "gpu-more"].map((id) => document.getElementById(id).innerText).join("\\n");
        }})"""
    )
    for wanted in [
        "withheld", "it is being started", "llama.cpp b4242", "3 running, 17 waiting, KV cache 25.0 %", "4 at once",
        "65,536 tokens", f"set more slots {HOSTILE}", "starting", "1 min 16 s", "it ended with 1", "logs/big.log",
        "0: RTX 4080", "too hot", "86 °C", "15.0 GB of 16.4 GB", "99 %", "301 W", "42 (14.9 GB)", "GPU 0 has 86 degrees",
    ]:
        assert wanted in text, (wanted, text)
    assert page.run("window.hacked === undefined")


def pauses_resumes_and_sets_priority(page, server, running):
    press(page, running, "pause")
    wait_until(lambda: server.batch(running)["overnight"]["paused"], "it is paused")
    page.until(f"{card(running)}.querySelector('.why').textContent.includes('paused')", "the page says why it waits")
    press(page, running, "resume")
    wait_until(lambda: not server.batch(running)["overnight"]["paused"], "it goes on")
    script = f"(() => {{ const it = {card(running)}.querySelector('input.priority'); it.value = VALUE;"
    script += "it.dispatchEvent(new Event('change')); })()"
    page.run(script.replace("VALUE", "7"))
    wait_until(lambda: server.batch(running)["overnight"]["priority"] == 7, "it has its priority")
    page.until("document.getElementById('said').textContent.includes('has priority 7')", "the page says so")
    page.run(script.replace("VALUE", "1.5"))
    page.until("document.getElementById('said').textContent.includes('whole number')", "a bad priority is refused")
    assert server.batch(running)["overnight"]["priority"] == 7


def cancels_only_when_confirmed(page, server, running):
    press(page, running, "cancel")
    page.until("document.getElementById('ask').open", "it asks before it cancels")
    page.run("document.getElementById('ask-no').click()")
    page.until("!document.getElementById('ask').open", "the question is gone")
    assert server.batch(running)["status"] == "in_progress"
    # Asked again at once: the browser tells only then that the question before was closed.
    page.run(
        f"""(async () => {{
            const cancel = {card(running)}.querySelector("button.cancel");
            cancel.click();
            document.getElementById("ask-no").click();
            cancel.click();
            await new Promise((done) => setTimeout(done, 200));
        }})()"""
    )
    assert page.run("document.getElementById('ask').open"), "it asks again"
    assert server.batch(running)["status"] == "in_progress"
    page.run("document.getElementById('ask-yes').click()")
    wait_until(lambda: server.batch(running)["status"] == "cancelled", "it is cancelled")
    page.until(f"document.getElementById('ended').contains({card(running)})", "it is shown among the ended")


def sends_failed_requests_again(page, server, hostile):
    press(page, hostile, "retry")
    child = wait_until(
        lambda: [it for it in server.call("GET", "/v1/batches")["data"] if it["overnight"]["parent"] == hostile],
        "the failed requests are sent again",
    )[0]
    page.until(card(child["id"]), "the new batch is shown")


def submits_files(page, server):
    path = os.path.join(WORK, "chosen.jsonl")
    with open(path, "w") as file:
        file.writelines(plain(20, "chosen"))
    page.run("document.getElementById('new-priority').value = 3")
    node = page.call("Runtime.evaluate", expression="document.getElementById('files')")["result"]["objectId"]
    page.call("DOM.setFileInputFiles", files=[path], objectId=node)
    page.run("document.querySelector('#submit button[type=submit]').click()")
    named = lambda name: [it for it in server.call("GET", "/v1/batches")["data"] if (it["metadata"] or {}).get("name") == name]
    chosen = wait_until(lambda: named("chosen.jsonl"), "the chosen file is a batch")[0]
    assert (chosen["overnight"]["priority"], chosen["overnight"]["large"]) == (3, True), chosen
    page.run(
        f"""(() => {{
            const files = new DataTransfer();
            files.items.add(new File([{json.dumps("".join(plain(5, "dropped")))}], "dropped.jsonl"));
            const event = (name) => new DragEvent(name, {{dataTransfer: files, bubbles: true, cancelable: true}});
            document.body.dispatchEvent(event("dragenter"));
            const isShown = !document.getElementById("drop").hidden;
            if (!isShown) throw new Error("nothing says that it may be dropped");
            document.body.dispatchEvent(event("drop"));
            if (!document.getElementById("drop").hidden) throw new Error("the drop is over");
        }})()"""
    )
    dropped = wait_until(lambda: named("dropped.jsonl"), "the dropped file is a batch")[0]
    for batch in (chosen, dropped):
        wait_until(lambda: server.batch(batch["id"])["status"] == "completed", "the submitted batch is done")
    return chosen["id"]


def downloads_an_output(page, server, batch):
    folder = os.path.join(WORK, f"downloads-{server.name}")
    page.browser.call(
        "Browser.setDownloadBehavior", behavior="allow", downloadPath=folder, browserContextId=page.context
    )
    press(page, batch, "output")
    wanted = server.call("GET", f"/v1/files/{server.batch(batch)['output_file_id']}/content")

    # Its name is the server's, or the page's where the bytes went through it.
    def is_saved():
        paths = [entry.path for entry in os.scandir(folder)] if os.path.isdir(folder) else []
        return any(path.endswith(".jsonl") and open(path, "rb").read() == wanted for path in paths)

    wait_until(is_saved, "the output is saved as it is")


def can_be_used_by_everybody(page, _server):
    """Whatever can be pressed or filled in has a name, and a narrow screen needs no sideways scrolling."""
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "spinbutton", "progressbar", "combobox"}
    named = 0
    for node in nodes:
        if not node.get("ignored") and node.get("role", {}).get("value") in roles:
            assert node.get("name", {}).get("value"), node
            named += 1
    assert named > 5, named
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    page.until("innerWidth === 360", "the screen is narrow")
    assert page.run("document.documentElement.scrollWidth") <= 360
    page.call("Emulation.clearDeviceMetricsOverride")


def nothing_went_wrong_and_nobody_else_was_asked(page, server):
    assert page.problems == [], page.problems
    others = [url for url in page.addresses if not url.startswith((server.url + "/", f"blob:{server.url}/"))]
    assert others == [], others
    refused = page.run("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.message)")
    assert refused != "sent"
    assert any("Content Security Policy" in problem for problem in page.problems), page.problems
    page.problems.clear()


def says_when_the_server_is_away(page, server):
    server.down()
    page.until("document.getElementById('link').textContent.includes('does not answer')", "the page says so")
    server.up()
    page.until("document.getElementById('link').textContent === ''", "the page has found it again")
    # The browser itself notes each call that failed.
    assert all("ERR_CONNECTION" in problem or "ERR_EMPTY" in problem for problem in page.problems), page.problems


def asks_for_a_key(page, server):
    page.open(server.url + "/")
    page.until("!document.getElementById('key-form').hidden", "it asks for a key")
    assert page.run("document.getElementById('all').hidden")
    give = "(() => { document.getElementById('key').value = KEY; document.querySelector('#key-form button').click(); })()"
    page.run(give.replace("KEY", "'not the key'"))
    page.until("document.getElementById('key-why').textContent.includes('Incorrect')", "a wrong key is said to be one")
    page.run(give.replace("KEY", json.dumps(KEY)))
    page.until("!document.getElementById('all').hidden", "the right one opens the page")
    batch = submits_files(page, server)
    downloads_an_output(page, server, batch)
    assert page.run("localStorage.length") == 0
    page.call("Page.reload")
    page.until("document.getElementById('all')?.hidden === false", "the tab keeps its key")
    page.run("document.getElementById('forget-key').click()")
    page.until("!document.getElementById('key-form').hidden", "a forgotten key is asked for")
    assert page.run("sessionStorage.length") == 0
    # Not even hidden: what has ended was kept from answer to answer, under the next key too.
    page.until("document.querySelectorAll('.batch').length === 0", "nothing that the key showed is left")
    page.run(give.replace("KEY", json.dumps(STRANGERS_KEY)))
    page.until("document.getElementById('all')?.hidden === false", "the key of another tenant opens the page")
    assert page.run("!document.getElementById('ended-none').hidden")
    assert page.run("document.querySelectorAll('.batch').length") == 0
    assert all("401" in problem for problem in page.problems), page.problems


def case(function, *arguments):
    started = time.monotonic()
    try:
        function(*arguments)
    except Exception:
        print(f"case page {function.__name__} FAILED")
        raise
    print(f"case page {function.__name__} ok, {time.monotonic() - started:.1f} s")


def main():
    servers, browser = [], None
    try:
        open_server = Server("open")
        servers.append(open_server)
        browser = Browser(os.environ["BROWSER"], os.path.join(WORK, "chromium"))
        hostile = open_server.submit(
            [line(HOSTILE, f"[[sim:{HOSTILE}]]"), line("fine", "hello")], name=HOSTILE, priority=9
        )
        running = open_server.submit(plain(12_000, "row"), name="the long one")
        page = Page(browser)
        case(shows_progress_as_the_api_has_it, page, open_server, running)
        case(shows_hostile_texts_as_text, page, open_server, hostile)
        case(shows_what_engines_and_gpus_tell, page, open_server)
        case(pauses_resumes_and_sets_priority, page, open_server, running)
        case(cancels_only_when_confirmed, page, open_server, running)
        case(sends_failed_requests_again, page, open_server, hostile)
        batch = submits_files(page, open_server)
        case(downloads_an_output, page, open_server, batch)
        case(can_be_used_by_everybody, page, open_server)
        case(nothing_went_wrong_and_nobody_else_was_asked, page, open_server)
        case(says_when_the_server_is_away, page, open_server)
        keyed = Server(
            "keyed",
            '[[key]]\nname = "tests"\ntenant = "default"\nvalue = "env:PAGE_TEST_KEY"\nadmin = true\n'
            '[[key]]\nname = "strangers"\ntenant = "strangers"\nvalue = "env:PAGE_TEST_STRANGERS_KEY"\n',
            key=KEY,
        )
        servers.append(keyed)
        case(asks_for_a_key, Page(browser), keyed)
    finally:
        if browser:
            browser.close()
        for server in servers:
            server.down()


if __name__ == "__main__":
    main()
