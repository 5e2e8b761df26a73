# SPDX-License-Identifier: Apache-2.0
"""Speed of the core on blocks in memory: encoding and decoding bf16, fp16 and fp32 weights.

One thread, CRC checked, buffers reused, every backend and np.copyto in turn in one process; prints
medians (best of all rounds in brackets) in GB/s of weights, and their ratio to copying. The weights
are Gaussian with a scale of its own for each row of 1024.

    python benchmarks/blocks.py [--mib 64] [--rounds 15] [--backends avx512,scalar]
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_dtypes import bfloat16

from wcodec import _core
from wcodec.block_header import BLOCK_HEADER, block_sizes
from wcodec.codec import batch

BLOCK_UNITS = 1 << 17
DTYPES = {
    "bf16": (bfloat16, 2, batch.BF16_FORMS),
    "fp16": (np.float16, 2, batch.FP16_FORMS),
    "fp32": (np.float32, 4, batch.FP32_FORMS),
}
CACHE_MIB = 0.5  # weights and blocks together stay in the cache of one core


def machine() -> str:
    text = Path("/proc/cpuinfo").read_text()
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    return f"{names[0] if names else platform.processor()}, {len(names)} processors"


def weights(dtype: type, n: int) -> np.ndarray:
    random = np.random.default_rng(0)
    values = random.standard_normal((n // 1024, 1024), dtype=np.float32)
    values *= 0.02 * np.exp(0.3 * random.standard_normal((n // 1024, 1), dtype=np.float32))
    return values.astype(dtype).reshape(-1).view(np.uint8)


def timed(call: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def measure(name: str, mib: float, rounds: int, backends: list[str]) -> None:
    dtype, w, forms = DTYPES[name]
    size = max(int(mib * (1 << 20)) // (BLOCK_UNITS * w), 1) * BLOCK_UNITS * w
    repeats = max(1, (1 << 25) // size)
    n_blocks = size // (BLOCK_UNITS * w)
    source, out, copy = (batch.aligned_empty(size) for _ in range(3))
    source[:] = weights(dtype, size // w)
    out[:] = copy[:] = 0

    places = np.zeros(n_blocks, batch.DESCRIPTOR)
    places["matrix_offset"] = np.arange(n_blocks) * (BLOCK_UNITS * w)
    places["row_stride"] = BLOCK_UNITS * w
    places["rows"], places["cols"] = 1, BLOCK_UNITS
    places["row_index_first"] = batch.NO_ROW_INDEX
    blocks = batch.encode_blocks(
        source,
        w,
        places,
        batch.NO_ROWS,
        family=batch.RANS16,
        form_set=forms,
        n_streams=2,
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
            data, blocks.headers, batch.RANS16, decode_places, batch.NO_ROWS, out, w, 1
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
            batch.RANS16,
            forms,
            2,
            (0, 0, 0, 0),
            (0, False),
            verify,
            1,
        )

    calls: dict[str, Callable[[], object]] = {
        "decode": decode,
        "encode": lambda: encode(False),
        "encode, verify": lambda: encode(True),
    }
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        times.setdefault(("", "copy"), []).append(timed(lambda: np.copyto(copy, source), repeats))
        for backend in backends:
            _core.set_backend(backend)
            for what, call in calls.items():
                n = repeats if backend != "scalar" else 1
                times.setdefault((backend, what), []).append(timed(call, n))
            assert np.array_equal(out, source)
    copying = times["", "copy"]
    print(f"{name}, {size / 2**20:g} MiB, ratio {size / len(blocks.data):.3f}")
    for (backend, what), seconds in times.items():
        speed = size / np.median(seconds) / 1e9
        best = size / min(seconds) / 1e9
        relative = np.median(copying) / np.median(seconds)
        print(f"  {backend:7} {what:15} {speed:6.2f} GB/s [{best:6.2f}]  {relative:5.2f} x copy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=float, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--backends", default=",".join(_core.backends()))
    arguments = parser.parse_args()
    print(machine())
    for mib in (CACHE_MIB, arguments.mib):
        for name in DTYPES:
            measure(name, mib, arguments.rounds, arguments.backends.split(","))


if __name__ == "__main__":
    main()
