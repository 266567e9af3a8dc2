#!/usr/bin/env python3
"""Records what Jinja2 makes of real chat templates, for the test that compares our rendering with it.

    record.py FOLDER

FOLDER has `.jinja` files, such as `vendor/llama.cpp/models/templates` of the sdist of llama-cpp-python. They have many
licences, so that neither they nor what is recorded is kept in the repository: it is written to .check/templates/, where the
test `real_templates_are_rendered_as_jinja2_does` of overnight-engine-llama finds it. Needs `jinja2`; its environment is
set up as `apply_chat_template` of transformers sets it up.
"""

import json
import pathlib
import sys

from datetime import datetime, timezone

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.fromtimestamp(1767225600, timezone.utc)
USER = {"role": "user", "content": "What is 2 < 3 & \"x\"?\n  é"}
TALKS = {
    "one": [USER],
    "system": [{"role": "system", "content": "Be brief."}, USER],
    "turns": [
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "  Why? "},
    ],
    "tool": [
        USER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call12345", "type": "function", "function": {"name": "f", "arguments": {"b": 1.5, "a": [None, True]}}}
            ],
        },
        {"role": "tool", "tool_call_id": "call12345", "name": "f", "content": "{\"c\": 7}"},
    ],
}


def raise_exception(message):
    raise TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def main():
    root = pathlib.Path(__file__).resolve().parent.parent.parent
    out = root / ".check" / "templates"
    out.mkdir(parents=True, exist_ok=True)
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = NOW.strftime
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        cases = []
        for name, messages in TALKS.items():
            case = {"name": name, "messages": messages, "text": None, "error": None}
            try:
                case["text"] = environment.from_string(source).render(
                    messages=messages, tools=None, documents=None, add_generation_prompt=True,
                    bos_token="<s>", eos_token="</s>",
                )
            except Exception as error:
                case["error"] = f"{type(error).__name__}: {error}"
            cases.append(case)
        recorded = {"source": source, "cases": cases}
        (out / f"{path.stem}.json").write_text(json.dumps(recorded, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
