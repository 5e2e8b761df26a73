# SPDX-License-Identifier: Apache-2.0
"""The example of tensor parallelism runs: two processes, each with its half of the blocks."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

EXAMPLE = Path(__file__).parents[2] / "examples" / "tensor_parallel.py"


def test_two_processes_decode_half_of_the_blocks_each():
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    shapes = "up [2048, 1024], down [1024, 2048], 32 of 64 blocks"
    assert lines[:2] == [f"rank {rank}: {shapes}" for rank in (0, 1)]
    assert lines[2] == "the sum over ranks is what one process computes"
