# SPDX-License-Identifier: Apache-2.0
"""docs/guarantees.md names only tests and files that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "guarantees.md").read_text()


def test_every_test_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 20
    for path, test in named:
        assert re.search(rf"^def {test}\(", (ROOT / path).read_text(), re.M), f"{path}::{test}"


def test_every_file_exists():
    named = re.findall(r"`((?:src|core|tools|tests)/[\w/.]+)`", TEXT)
    assert len(named) > 20
    for path in named:
        assert (ROOT / path).is_file(), path


def test_every_promise_has_its_place_and_its_test():
    table = TEXT.split("|---|---|---|\n")[1].split("\n\n")[0]
    for row in table.splitlines():
        promise, place, tests = row.strip("| ").split(" | ")
        assert promise
        assert "/" in place
        assert "::" in tests
