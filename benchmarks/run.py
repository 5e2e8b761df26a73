# SPDX-License-Identifier: Apache-2.0
"""Speed and ratio of wcodec and its peers on the benchmark cases.

    make bench                                     # all cases whose data is here
    python benchmarks/run.py --case bf16 --rounds 9 --no-write
    python benchmarks/run.py --files               # 1 GiB files against cp and zstd, nothing else

Each case is given to every codec twice: as it is (`tensors`), and with all tensors of a dtype
joined into one flat array (`joined`, which spares peers that have no container many small calls).
zstd, which knows no dtypes, is also given the bytes of the safetensors file (`file`).
Input and output are in memory, outputs are allocated anew in each call, and every result is
compared with its source once. In each round all codecs take their turn in one process; the table
has medians. Before each call memory is touched and given back: the host of a virtual machine takes
what lies free for a while, and who touches it first would wait. `memcpy` is np.copyto of the source
bytes into reused memory, `copy` into new memory, in the same rounds. The results go to
benchmarks/results/<machine>_<date>.csv.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import files
import numpy as np
from cases import Arrays, all_cases
from peers import Codec, codecs, versions

from wcodec import _core
from wcodec.dtypes import dtype_name

RESULTS = Path(__file__).with_name("results")
Row = dict[str, Any]


def joined(arrays: Arrays) -> Arrays:
    """One flat array for each dtype."""
    groups: dict[str, list[np.ndarray]] = {}
    for array in arrays.values():
        groups.setdefault(dtype_name(array.dtype), []).append(array.reshape(-1))
    return {dtype: np.concatenate(parts) for dtype, parts in groups.items()}


def main_dtype(arrays: Arrays) -> str:
    """The dtype of the most bytes."""
    return max(joined(arrays).items(), key=lambda item: item[1].nbytes)[0]


def copies(arrays: Arrays) -> Arrays:
    return {name: array.copy() for name, array in arrays.items()}


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


@dataclass
class Turn:
    """A codec on one case: its encoded bytes and the seconds of its calls."""

    codec: Codec
    encoded: list[Any]
    encode: list[float]
    decode: list[float]

    def take(self, arrays: Arrays) -> None:
        size = sum(array.nbytes for array in arrays.values())
        if not self.codec.slow:
            fresh = copies(arrays)
            touch_memory(2 * size)
            self.encode.append(timed(lambda: self.codec.encode(fresh))[0])
            del fresh
        touch_memory(2 * size)
        self.decode.append(timed(lambda: self.codec.decode(self.encoded))[0])

    def encoded_bytes(self) -> int:
        return sum(len(x[0] if isinstance(x, tuple) else x) for x in self.encoded)


def touch_memory(size: int) -> None:
    np.ones(size, np.uint8)


def first_turn(codec: Codec, arrays: Arrays) -> Turn:
    """Encode and decode once, unmeasured but for the slow ones, and compare."""
    fresh = copies(arrays)
    seconds, encoded = timed(lambda: codec.encode(fresh))
    decoded = codec.decode(encoded)
    if isinstance(decoded, dict):
        decoded = [decoded[name] for name in arrays]
    for (name, array), found in zip(arrays.items(), decoded, strict=True):
        if memoryview(array.tobytes()) != np.asarray(found).reshape(-1).view(np.uint8).data:
            raise RuntimeError(f"{codec.name} returns other bytes of {name!r}")
    return Turn(codec, encoded, [seconds] if codec.slow else [], [])


def measure_copies(source: np.ndarray, target: np.ndarray, memcpy: list, copy: list) -> None:
    touch_memory(2 * source.nbytes)
    memcpy.append(timed(lambda: np.copyto(target, source))[0])
    copy.append(timed(source.copy)[0])


def measure(arrays: Arrays, runners: list[Codec], rounds: int) -> Iterator[Row]:
    """Rows of all codecs on one dict of arrays."""
    source = np.concatenate([a.reshape(-1).view(np.uint8) for a in arrays.values()])
    target = np.zeros_like(source)
    turns = [first_turn(codec, arrays) for codec in runners]
    memcpy: list[float] = []
    copy: list[float] = []
    for _ in range(rounds):
        measure_copies(source, target, memcpy, copy)
        for turn in turns:
            turn.take(arrays)
    size = source.nbytes
    limit = statistics.median(memcpy)
    for name, seconds in (("memcpy", memcpy), ("copy", copy)):
        yield row_of(name, size, size, seconds, seconds, limit)
    for turn in turns:
        yield row_of(turn.codec.name, size, turn.encoded_bytes(), turn.encode, turn.decode, limit)


def row_of(
    codec: str,
    size: int,
    encoded_bytes: int,
    encode: list[float],
    decode: list[float],
    memcpy: float,
) -> Row:
    encode_seconds, decode_seconds = statistics.median(encode), statistics.median(decode)
    return {
        "codec": codec,
        "source_bytes": size,
        "encoded_bytes": encoded_bytes,
        "ratio": f"{size / encoded_bytes:.4f}",
        "encode_GBps": f"{size / encode_seconds / 1e9:.4g}",
        "decode_GBps": f"{size / decode_seconds / 1e9:.4g}",
        "encode_of_memcpy": f"{memcpy / encode_seconds:.4f}",
        "decode_of_memcpy": f"{memcpy / decode_seconds:.4f}",
        "rounds": len(decode),
    }


def run_cases(pattern: str, rounds: int) -> Iterator[Row]:
    cases, missing = all_cases()
    for line in missing:
        print(f"skipped: {line}")
    runners = {}
    for threads in (1, 2):
        runners[threads], missing = codecs(threads)
        for line in missing:
            print(f"skipped with {threads} threads: {line}")
    print(f"{'case, shape, threads, codec':60} ratio, GB/s encode, decode, both of memcpy")
    for case in cases:
        if pattern not in case.name:
            continue
        arrays = case.arrays()
        dtype = main_dtype(arrays)
        views = {"joined": joined(arrays), "tensors": arrays, "file": {"file": case.file_array()}}
        for shape, view in views.items():
            for threads in (1, 2):
                able = [c for c in runners[threads] if c.supports(dtype) and shape in c.shapes]
                for row in measure(view, able, rounds):
                    yield {"case": case.name, "shape": shape, "threads": threads, **row}


def print_row(row: Row) -> None:
    print(
        f"{row['case']:28} {row['shape']:8} {row['threads']} {row['codec']:20}"
        f"{row['ratio']:>10} {row['encode_GBps']:>9} {row['decode_GBps']:>9}"
        f"{row['encode_of_memcpy']:>9} {row['decode_of_memcpy']:>9}",
        flush=True,
    )


def cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def result_path(kind: str) -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", cpu_model().lower()).strip("-")
    return RESULTS / f"{slug}_{datetime.date.today():%Y-%m-%d}{kind}.csv"


def head() -> list[str]:
    """Comment lines: where and with what this was measured, and how busy the machine was."""
    return [
        f"# {cpu_model()}, {os.cpu_count()} CPUs, load {os.getloadavg()[1]:.1f}, "
        f"Python {platform.python_version()}",
        f"# wcodec backend: {_core.backend()}",
        f"# {versions()}",
    ]


def write(path: Path, lines: list[str], rows: list[Row]) -> None:
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="") as file:
        file.write("".join(f"{line}\n" for line in lines))
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"written: benchmarks/results/{path.name}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", action="store_true", help="files, cp and zstd instead")
    parser.add_argument("--no-write", action="store_true", help="leave results/ as it is")
    arguments = parser.parse_args()
    if arguments.files:
        measured, kind, show = files.run(arguments.rounds), "_files", files.print_row
    else:
        measured, kind, show = run_cases(arguments.case, arguments.rounds), "", print_row
    rows = []
    for row in measured:
        rows.append(row)
        show(row)
    if rows and not arguments.no_write:
        command = [f"# {files.zstd_version()}"] if arguments.files else []
        write(result_path(kind), head() + command, rows)


if __name__ == "__main__":
    main()
