# SPDX-License-Identifier: Apache-2.0
"""`wcodec ...` as a user calls it, but in this process: starting another takes longer than most
commands do. Tests that need one (pipes, signals, a terminal) start it themselves.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

from wcodec.cli.main import run as run_here


def run(
    *args: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> CompletedProcess[str]:
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    texts = [str(arg) for arg in args]
    before = Path.cwd()
    os.chdir(cwd or before)
    try:
        with (
            mock.patch.dict(os.environ, env or {}),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run_here(texts)
    finally:
        os.chdir(before)
    found = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return CompletedProcess(texts, code, *found)
