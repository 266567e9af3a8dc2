"""The licences of all crates against the list in deny.toml, and no source but crates.io: a small stand-in for
`cargo deny check` on machines that do not have it. Versions that appear twice are named, which fails nothing."""

import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def is_allowed(expression, allowed):
    """Whether an SPDX expression can be met with allowed licences. `/` is how old manifests write OR."""
    tokens = re.findall(r"\(|\)|[^\s()/]+|/", expression)
    words = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token in {"(", ")"}:
            words.append(token)
        elif token in {"OR", "/"}:
            words.append("or")
        elif token == "AND":
            words.append("and")
        else:
            if tokens[at + 1 : at + 2] == ["WITH"]:
                token = f"{token} WITH {tokens[at + 2]}"
                at += 2
            words.append(str(token in allowed))
        at += 1
    # Nothing is left but parentheses, `and`, `or`, `True` and `False`.
    return bool(eval(" ".join(words)))


def main():
    root = Path(__file__).resolve().parent.parent
    deny = tomllib.loads((root / "deny.toml").read_text())
    allowed = set(deny["licenses"]["allow"])
    banned = {entry["crate"] for entry in deny["bans"]["deny"]}
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=120).stdout)
    problems = []
    versions = defaultdict(set)
    packages = [package for package in metadata["packages"] if package["source"] is not None]
    for package in packages:
        name = f"{package['name']} {package['version']}"
        versions[package["name"]].add(package["version"])
        if package["source"] != REGISTRY:
            problems.append(f"{name} comes from {package['source']}")
        if package["name"] in banned:
            problems.append(f"{name} is banned by deny.toml")
        if not is_allowed(package["license"] or "none", allowed):
            problems.append(f"{name} has the licence `{package['license']}`, which deny.toml does not list")
    twice = sorted(name for name, found in versions.items() if len(found) > 1)
    print(f"{len(packages)} crates; in more than one version: {', '.join(twice) or 'none'}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
