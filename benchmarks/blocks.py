# SPDX-License-Identifier: Apache-2.0
"""Speed of the core on blocks in memory: encoding and decoding floats and bytes.

One thread, CRC checked, buffers reused, every backend and np.copyto in turn in one process; prints
medians (best of all rounds in brackets) in GB/s of weights, and their ratio to copying. The weights
are Gaussian with a scale of its own for each row of 1024.

    python benchmarks/blocks.py [--mib 64] [--rounds 15] [--backends avx512,scalar]
    python benchmarks/blocks.py --cases bf16 --calls decode    # for a profiler
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_dtypes import bfloat16, float8_e4m3fn
from numpy.typing import NDArray

from wcodec import _core
from wcodec.block_header import BLOCK_HEADER, block_sizes
from wcodec.codec import batch, rans32

COLS = 1024
BLOCK_ROWS = 128
BLOCK_UNITS = BLOCK_ROWS * COLS
CACHE_MIB = 0.5  # weights and blocks together stay in the cache of one core
CALLS = ("decode", "encode", "verified")


class Case(NamedTuple):
    """Weights, and how their blocks are coded."""

    dtype: type
    form_set: int  # or the splits of rans32
    family: int = batch.RANS16
    exponent_bits: int = 0

    @property
    def unit_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize


CASES = {
    "bf16": Case(bfloat16, batch.BF16_FORMS),
    "fp16": Case(np.float16, batch.FP16_FORMS),
    "fp32": Case(np.float32, batch.FP32_FORMS),
    "int8": Case(np.int8, batch.INT8_FORMS),
    "fp8": Case(float8_e4m3fn, batch.FP8_FORMS),
    "bf16 rans32": Case(bfloat16, rans32.splits("BF16", True), batch.RANS32, 8),
    "fp32 rans32": Case(np.float32, rans32.splits("F32", True), batch.RANS32, 8),
}


def machine() -> str:
    text = Path("/proc/cpuinfo").read_text()
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    return f"{names[0] if names else platform.processor()}, {len(names)} processors"


def weights(dtype: type, n: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    values = random.standard_normal((n // COLS, COLS), dtype=np.float32)
    values *= 0.02 * np.exp(0.3 * random.standard_normal((n // COLS, 1), dtype=np.float32))
    if dtype in (np.int8, float8_e4m3fn):  # with a scale for each row, as quantised weights have
        values *= (127 if dtype is np.int8 else 448) / np.abs(values).max(axis=1, keepdims=True)
        values = np.rint(values) if dtype is np.int8 else values
    return values.astype(dtype).reshape(-1).view(np.uint8)


def timed(call: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def measure(name: str, mib: float, rounds: int, backends: list[str], chosen: list[str]) -> None:
    case = CASES[name]
    w = case.unit_bytes
    size = max(int(mib * (1 << 20)) // (BLOCK_UNITS * w), 1) * BLOCK_UNITS * w
    repeats = max(1, (1 << 25) // size)
    n_blocks = size // (BLOCK_UNITS * w)
    source, out, copy = (batch.aligned_empty(size) for _ in range(3))
    source[:] = weights(case.dtype, size // w)
    out[:] = copy[:] = 0

    places = np.zeros(n_blocks, batch.DESCRIPTOR)
    places["matrix_offset"] = np.arange(n_blocks) * (BLOCK_UNITS * w)
    places["row_stride"] = COLS * w
    places["rows"], places["cols"] = BLOCK_ROWS, COLS
    places["row_index_first"] = batch.NO_ROW_INDEX
    options = (case.exponent_bits, case.family == batch.RANS32)
    n_streams = 2 if case.family == batch.RANS16 else 1
    blocks = batch.encode_blocks(
        source,
        w,
        places,
        batch.NO_ROWS,
        family=case.family,
        form_set=case.form_set,
        n_streams=n_streams,
        rans32=options,
        verify=True,
        threads=1,
    )
    data = np.concatenate([blocks.data, np.zeros(batch.READ_SLACK_BYTES, np.uint8)])
    decode_places = places.copy()
    decode_places["data_offset"] = batch.block_starts(blocks.headers)
    room = np.zeros(n_blocks, BLOCK_HEADER)
    room["payload_bytes"] = BLOCK_UNITS * w
    encoded = np.zeros(int(block_sizes(room).sum()), np.uint8)
    headers = np.empty(n_blocks, BLOCK_HEADER)

    def decode() -> None:
        failures = _core.decode_blocks(
            data, blocks.headers, case.family, decode_places, batch.NO_ROWS, out, w, 1
        )
        assert not failures

    def encode(verify: bool) -> None:
        _core.encode_blocks(
            source,
            w,
            places,
            batch.NO_ROWS,
            encoded,
            headers,
            case.family,
            case.form_set,
            n_streams,
            (0, 0, 0, 0),
            options,
            verify,
            1,
        )

    calls: dict[str, Callable[[], object]] = {
        "decode": decode,
        "encode": lambda: encode(False),
        "verified": lambda: encode(True),
    }
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        times.setdefault(("", "copy"), []).append(timed(lambda: np.copyto(copy, source), repeats))
        for backend in backends:
            _core.set_backend(backend)
            for what in chosen:
                n = repeats if backend != "scalar" else 1
                times.setdefault((backend, what), []).append(timed(calls[what], n))
            assert "decode" not in chosen or np.array_equal(out, source)
    copying = times["", "copy"]
    print(f"{name}, {size / 2**20:g} MiB, ratio {size / len(blocks.data):.3f}")
    for (backend, what), seconds in times.items():
        speed = size / np.median(seconds) / 1e9
        best = size / min(seconds) / 1e9
        relative = np.median(copying) / np.median(seconds)
        print(f"  {backend:12} {what:9} {speed:6.2f} GB/s [{best:6.2f}]  {relative:5.2f} x copy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=float, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--backends", default=",".join(_core.backends()))
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--calls", default=",".join(CALLS))
    arguments = parser.parse_args()
    backends, names, chosen = (
        text.split(",") for text in (arguments.backends, arguments.cases, arguments.calls)
    )
    print(machine())
    for mib in (CACHE_MIB, arguments.mib):
        for name in names:
            measure(name, mib, arguments.rounds, backends, chosen)


if __name__ == "__main__":
    main()
