# SPDX-License-Identifier: Apache-2.0
"""A file of 1 GiB (Gaussian bf16) encoded and decoded by the commands of wcodec and zstd, beside
`cp`, all in the page cache and all synced to disk.

Needs some 4 GB beside the temporary directory's other content. Commands that are not installed are
named and left out.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from large_tensor import sha256, write_gaussian

ROWS = 1 << 15
COLUMNS = 1 << 14


def commands(source: Path, directory: Path) -> dict[str, tuple[list[str], Path]]:
    """By name, a command and its output; decoders stand behind their encoders."""
    wcodec = [sys.executable, "-m", "wcodec"]
    encoded, packed = directory / "source.wcodec", directory / "source.zst"
    plain = directory / "plain"
    one = ["-q", "-T", "1"]
    return {
        "cp": (["cp", "--reflink=never", str(source), str(plain)], plain),
        "zstd -1 -T1": (["zstd", "-qf", "-1", "-T1", str(source), "-o", str(packed)], packed),
        "zstd -d": (["zstd", "-qfd", str(packed), "-o", str(plain)], plain),
        "wcodec encode -T 1": ([*wcodec, "encode", *one, str(source), "-o", str(encoded)], encoded),
        "wcodec decode -T 1": ([*wcodec, "decode", *one, str(encoded), "-o", str(plain)], plain),
    }


def zstd_version() -> str:
    """The line that the zstd command says of itself."""
    if not shutil.which("zstd"):
        return "no zstd command"
    done = subprocess.run(["zstd", "--version"], check=True, capture_output=True, text=True)
    return done.stdout.strip(" *\n")


def sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def run_synced(command: list[str], output: Path) -> float:
    """Seconds of a command and of what its output still lacks on disk."""
    output.unlink(missing_ok=True)
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sync_file(output)
    return time.perf_counter() - started


def run(rounds: int) -> Iterator[dict[str, object]]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        source = directory / "source.safetensors"
        digest = write_gaussian(source, [ROWS, COLUMNS])
        chosen = {
            name: command
            for name, command in commands(source, directory).items()
            if shutil.which(command[0][0]) or print(f"skipped: {command[0][0]} is not installed")
        }
        seconds: dict[str, list[float]] = {name: [] for name in chosen}
        for _ in range(rounds):
            for name, (command, output) in chosen.items():
                seconds[name].append(run_synced(command, output))
        if sha256(directory / "plain") != digest:
            raise RuntimeError("wcodec restored another file")
        size = source.stat().st_size
        limit = statistics.median(seconds["cp"])
        for name, (_, output) in chosen.items():
            median = statistics.median(seconds[name])
            encoded_bytes = output.stat().st_size
            yield {
                "case": "gaussian bf16, 1 GiB file",
                "command": name,
                "source_bytes": size,
                "encoded_bytes": encoded_bytes,
                "ratio": f"{size / encoded_bytes:.4f}",
                "seconds": f"{median:.2f}",
                "of_cp": f"{median / limit:.2f}",
                "rounds": rounds,
            }


def print_row(row: dict[str, object]) -> None:
    print(
        f"{row['command']:20} {row['ratio']:>8} {row['seconds']:>8} s {row['of_cp']:>8} of cp",
        flush=True,
    )
