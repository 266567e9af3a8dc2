"""What people do with the official Python SDK, unmodified: cases 52, 95, 110 and 113 of the wire contract.

Runs with openai-python from 1.30 on. Needs OVERNIGHT_URL, a server whose engine answers and that asks for no key,
and SDK_BUSY_URL with SDK_TEST_KEY, a server whose engine is down, so that its queue can be filled.
"""

import inspect
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import openai
from openai import OpenAI
from openai.types import Batch

MODEL = "sim-model"
TERMINAL = {"completed", "failed", "expired", "cancelled"}
UNKNOWN_BATCH = "batch_00000000000000000000000000000000"
# A wait that is longer than this waits for something that will not come.
WAIT_MAX_S = 120
PAGES_MAX = 10_000

client = OpenAI(base_url=os.environ["OVERNIGHT_URL"] + "/v1", api_key="EMPTY")
busy = OpenAI(base_url=os.environ["SDK_BUSY_URL"] + "/v1", api_key=os.environ["SDK_TEST_KEY"])


def request_lines(count, first_text="Hi"):
    """`count` input lines; the prompt of the first tells the stand-in engine how to behave."""
    for number in range(count):
        text = first_text if number == 0 else f"Question {number}"
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
        line = {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield json.dumps(line)


def input_bytes(count, first_text="Hi"):
    return "".join(line + "\n" for line in request_lines(count, first_text)).encode()


def create_batch(on, file_id, window="24h", **more):
    return on.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window=window, **more
    )


def retrieve_strictly(on, batch_id, seen):
    """The batch, after the text of the answer went through the strict model of the SDK."""
    text = on.batches.with_raw_response.retrieve(batch_id).http_response.text
    batch = Batch.model_validate_json(text, strict=True)
    assert Batch.model_validate(json.loads(text)).id == batch.id
    counts = batch.request_counts
    assert counts is not None and counts.completed + counts.failed <= counts.total, text
    if batch.status not in TERMINAL:
        assert batch.output_file_id is None and batch.error_file_id is None, text
    seen.add(batch.status)
    return batch


def wait_for_end(on, batch_id, seen, wait_max_s=WAIT_MAX_S):
    deadline = time.monotonic() + wait_max_s
    done = 0
    while True:
        batch = retrieve_strictly(on, batch_id, seen)
        now_done = batch.request_counts.completed + batch.request_counts.failed
        assert now_done >= done, f"counts ran backwards: {done} to {now_done}"
        done = now_done
        if batch.status in TERMINAL:
            return batch
        assert time.monotonic() < deadline, f"`{batch_id}` is still `{batch.status}`"
        time.sleep(0.05)


def content_lines(on, file_id):
    return [json.loads(line) for line in on.files.content(file_id).text.splitlines()]


def raises(kind, call):
    try:
        call()
    except openai.APIStatusError as err:
        assert type(err) is kind, f"{type(err).__name__} in place of {kind.__name__}: {err}"
        assert err.request_id, "no request id"
        assert isinstance(err.body, dict) and err.body["message"], err.body
        return err
    raise AssertionError(f"no {kind.__name__}")


def case_110_upload_create_poll_content_delete(seen):
    data = input_bytes(20, "[[sim:delay_ms=700]]")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in put \N{LATIN SMALL LETTER E WITH ACUTE}.jsonl"
        path.write_bytes(data)
        from_path = client.files.create(file=path, purpose="batch")
        with path.open("rb") as opened:
            from_open = client.files.create(file=opened, purpose="batch")
    assert from_path.filename == path.name, from_path.filename
    assert from_path.bytes == from_open.bytes == len(data)
    from_bytes = client.files.create(file=data, purpose="batch")
    assert from_bytes.filename == "upload", from_bytes.filename

    life = {"anchor": "created_at", "seconds": 3600}
    # The oldest SDK has no such argument; its users pass the member in `extra_body`.
    expiring = client.files.create(
        file=("in.jsonl", data), purpose="batch", extra_body={"expires_after": life}
    )
    assert expiring.expires_at == expiring.created_at + 3600
    if "expires_after" in inspect.signature(client.files.create).parameters:
        typed = client.files.create(file=("in.jsonl", data), purpose="batch", expires_after=life)
        assert typed.expires_at == typed.created_at + 3600

    started = time.monotonic()
    ready = client.files.wait_for_processing(from_path.id)
    assert ready.status == "processed" and time.monotonic() - started < 4
    assert client.files.content(from_path.id).content == data

    batch = create_batch(client, from_path.id, metadata={"night": "one"})
    assert batch.id.startswith("batch_") and batch.metadata == {"night": "one"}
    batch = wait_for_end(client, batch.id, seen)
    assert batch.status == "completed" and batch.error_file_id is None, batch
    assert (batch.request_counts.total, batch.request_counts.completed) == (20, 20)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    lines = content_lines(client, batch.output_file_id)
    assert [line["custom_id"] for line in lines] == [f"row-{number}" for number in range(20)]
    for line in lines:
        assert line["response"]["status_code"] == 200 and line["error"] is None, line
        assert line["response"]["body"]["choices"][0]["message"]["content"], line

    if hasattr(client, "uploads") and hasattr(client.uploads, "upload_file_chunked"):
        upload = client.uploads.upload_file_chunked(
            file=data, filename="parts.jsonl", bytes=len(data), mime_type="application/jsonl",
            purpose="batch", part_size=1000,
        )
        assert upload.status == "completed" and client.files.content(upload.file.id).content == data

    for file in (from_open, from_bytes, expiring):
        assert client.files.delete(file.id).deleted is True
        raises(openai.NotFoundError, lambda file=file: client.files.retrieve(file.id))
    return batch


def case_052_strict_in_every_state(seen):
    mixed = client.files.create(file=input_bytes(3, "[[sim:status=400]]"), purpose="batch")
    batch = wait_for_end(client, create_batch(client, mixed.id).id, seen)
    assert batch.status == "completed" and batch.request_counts.failed == 1, batch
    (failed,) = content_lines(client, batch.error_file_id)
    assert failed["custom_id"] == "row-0" and failed["error"] is None, failed
    assert failed["response"]["status_code"] == 400, failed
    assert failed["response"]["body"]["error"]["message"], failed

    texts = client.files.create(file=input_bytes(3, "[[sim:unicode]]"), purpose="batch")
    batch = wait_for_end(client, create_batch(client, texts.id).id, seen)
    contents = [line["response"]["body"]["choices"][0]["message"]["content"]
                for line in content_lines(client, batch.output_file_id)]
    assert len(contents) == 3 and "\u2028" in contents[0], contents

    broken = client.files.create(file=next(request_lines(1)).encode() + b"\nnot json\n", purpose="batch")
    batch = wait_for_end(client, create_batch(client, broken.id).id, seen)
    assert batch.status == "failed" and batch.output_file_id is None and batch.failed_at, batch
    (error,) = batch.errors.data
    assert (error.code, error.line) == ("invalid_json_line", 2), error

    long = client.files.create(file=input_bytes(3, "[[sim:delay_ms=3000]]"), purpose="batch")
    batch = create_batch(client, long.id)
    cancelled = client.batches.cancel(batch.id)
    assert cancelled.status in {"cancelling", "cancelled"} and cancelled.cancelling_at, cancelled
    seen.add(cancelled.status)
    batch = wait_for_end(client, batch.id, seen)
    assert batch.status == "cancelled" and batch.cancelled_at, batch
    again = client.batches.cancel(batch.id)
    assert again.cancelled_at == batch.cancelled_at, "a second cancel changed the batch"

    wanted = {"in_progress", "completed", "failed", "cancelled"}
    assert wanted <= seen, f"not seen: {wanted - seen}"


def case_095_iterate_all():
    batches = [batch.id for batch, _ in zip(client.batches.list(limit=2), range(PAGES_MAX))]
    assert len(batches) >= 5 and len(batches) == len(set(batches)), batches
    assert len(batches) < PAGES_MAX, "the list of batches has no end"
    # The oldest SDK knows no pages of files: it takes the first answer for all there is.
    pages = {"limit": 3} if "after" in inspect.signature(client.files.list).parameters else {}
    files = [file.id for file, _ in zip(client.files.list(**pages), range(PAGES_MAX))]
    assert len(files) >= 5 and len(files) == len(set(files)), files
    assert len(files) < PAGES_MAX, "the list of files has no end"
    outputs = list(client.files.list(purpose="batch_output"))
    assert outputs and all(file.purpose == "batch_output" for file in outputs)


def case_113_exceptions(completed):
    err = raises(
        openai.BadRequestError,
        lambda: client.batches.create(
            input_file_id=completed.input_file_id, endpoint="/v1/invalid", completion_window="24h"
        ),
    )
    assert (err.code, err.param) == ("invalid_value", "endpoint"), err.body
    err = raises(openai.NotFoundError, lambda: client.files.retrieve("file-unknown"))
    assert err.param == "id" and "file-unknown" in str(err), err.body
    raises(openai.NotFoundError, lambda: client.files.content("file-unknown"))
    raises(openai.NotFoundError, lambda: client.batches.retrieve(UNKNOWN_BATCH))
    err = raises(openai.NotFoundError, lambda: client.models.retrieve("no/such:model"))
    assert err.code == "model_not_found", err.body
    err = raises(openai.ConflictError, lambda: client.batches.cancel(completed.id))
    assert err.response.headers["x-should-retry"] == "false"
    err = raises(openai.AuthenticationError, lambda: busy.with_options(api_key="wrong").batches.list())
    assert err.code == "invalid_api_key", err.body

    file = busy.files.create(file=input_bytes(2), purpose="batch")
    created, impatient = [], busy.with_options(max_retries=0)

    def fill():
        for _ in range(20):
            created.append(create_batch(impatient, file.id).id)

    err = raises(openai.RateLimitError, fill)
    assert 1 <= float(err.response.headers["retry-after"]) <= 60
    assert created, "the queue refuses the first batch"
    for batch_id in created:
        busy.batches.cancel(batch_id)
    for batch_id in created:
        batch = wait_for_end(busy, batch_id, set())
        assert batch.status == "cancelled" and batch.output_file_id is None, batch


def expire_start():
    file = busy.files.create(file=input_bytes(2), purpose="batch")
    return create_batch(busy, file.id, window="1m", extra_body={"overnight": {"hard_expiry": True}}).id


def case_090_expiry(batch_id, seen):
    batch = wait_for_end(busy, batch_id, seen)
    assert batch.status == "expired" and batch.expired_at and batch.output_file_id is None, batch
    lines = content_lines(busy, batch.error_file_id)
    assert [line["error"]["code"] for line in lines] == ["batch_expired"] * 2, lines
    assert all(line["response"] is None for line in lines), lines


def main():
    name = f"python openai {openai.__version__}"
    failed = 0
    seen = set()
    state = {}

    def case(label, call):
        nonlocal failed
        started = time.monotonic()
        try:
            state[label] = call()
            print(f"case {label} {name} ok ({time.monotonic() - started:.1f} s)", flush=True)
        except Exception as err:  # Every case is reported, whatever the one before it did.
            failed += 1
            where = err.__traceback__
            while where.tb_next is not None:
                where = where.tb_next
            print(f"case {label} {name} FAILED: line {where.tb_lineno}: {type(err).__name__}: {err}", flush=True)

    with_expiry = "--expiry" in sys.argv[1:]
    if with_expiry:
        case("090 start", expire_start)
    case("110", lambda: case_110_upload_create_poll_content_delete(seen))
    case("052", lambda: case_052_strict_in_every_state(seen))
    case("095", case_095_iterate_all)
    if state.get("110") is not None:
        case("113", lambda: case_113_exceptions(state["110"]))
    if with_expiry and state.get("090 start") is not None:
        case("090", lambda: case_090_expiry(state["090 start"], seen))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
