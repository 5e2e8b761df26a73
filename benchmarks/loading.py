# SPDX-License-Identifier: Apache-2.0
"""What loading costs: time and memory of load_file beside safetensors', from the page cache and
from a slow disk.

    python benchmarks/loading.py [--mb 600] [--rounds 5] [--threads N]

Gaussian weights in bf16, layers like those of a transformer. Every side leaves all tensors in fresh
memory and every byte is read once at the end (safetensors maps the file, so reading is loading
there; "into fresh memory" reads the plain file instead, as one must to keep or change tensors).
Medians of alternate rounds. A slow disk is a reader that gives out bytes at a set rate, the plain
file's into fresh tensors.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable

import numpy as np
import safetensors.torch
import torch

import wcodec.torch
from wcodec.decode import decode_budget
from wcodec.safetensors_file import SafetensorsFile
from wcodec.tensor_files import open_source
from wcodec.torch_tensors import as_tensor

ROWS = 4096
PIECE = 8 << 20
Load = Callable[[], dict[str, torch.Tensor]]


def make(directory: str, megabytes: int) -> tuple[str, str]:
    n_layers = max(1, megabytes * 10**6 // (2 * ROWS * 2048 * 2))
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for i in range(n_layers):
        for name in ("up", "down"):
            weight = torch.randn(ROWS, 2048, generator=generator) * 0.02
            tensors[f"layers.{i}.{name}.weight"] = weight.to(torch.bfloat16)
    plain = os.path.join(directory, "model.safetensors")
    encoded = os.path.join(directory, "model.wcodec")
    safetensors.torch.save_file(tensors, plain)
    wcodec.encode_checkpoint(plain, encoded)
    return plain, encoded


def touch(tensors: dict[str, torch.Tensor]) -> None:
    for tensor in tensors.values():
        tensor.view(torch.int64).sum()


class Throttled:
    """A file whose bytes arrive at `rate` bytes a second, however many threads ask."""

    def __init__(self, path: str, rate: float) -> None:
        self._data = np.memmap(path, np.uint8, "r")
        self._rate = rate
        self._lock = threading.Lock()
        self._free = 0.0

    def size(self) -> int:
        return len(self._data)

    def read_ranges(self, ranges: list[tuple[int, int]]) -> list[np.ndarray]:
        with self._lock:
            begin = max(self._free, time.perf_counter())
            until = self._free = begin + sum(size for _, size in ranges) / self._rate
        time.sleep(max(0.0, until - time.perf_counter()))
        return [self._data[offset : offset + size] for offset, size in ranges]


def slow_wcodec(path: str, rate: float, threads: int | None) -> dict[str, torch.Tensor]:
    file = open_source(Throttled(path, rate), decode_budget(threads))
    return {
        name: as_tensor(data, file.entries[name].dtype, file.entries[name].shape)
        for name, data in file.read_all()
    }


def slow_safetensors(path: str, rate: float) -> dict[str, torch.Tensor]:
    source = Throttled(path, rate)

    def fill(offset: int, data: np.ndarray) -> None:
        for start in range(0, len(data), PIECE):
            size = min(PIECE, len(data) - start)
            (piece,) = source.read_ranges([(offset + start, size)])
            data[start : start + size] = piece

    return read_safetensors(path, fill)


def fresh_safetensors(path: str) -> dict[str, torch.Tensor]:
    with open(path, "rb", buffering=0) as source:

        def fill(offset: int, data: np.ndarray) -> None:
            done = 0
            while done < len(data):
                done += os.preadv(source.fileno(), [data[done:]], offset + done)

        return read_safetensors(path, fill)


def read_safetensors(path: str, fill: Callable[[int, np.ndarray], None]) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file in fresh memory, huge pages where the system has them."""
    tensors = {}
    with SafetensorsFile(path) as file:
        for tensor in file.tensors:
            data = np.empty(tensor.data_bytes, np.uint8)
            fill(tensor.start, data)
            tensors[tensor.name] = as_tensor(data, tensor.dtype, tensor.shape)
    return tensors


def seconds(load: Load) -> float:
    start = time.perf_counter()
    touch(load())
    return time.perf_counter() - start


def compare(what: str, ours: Load, theirs: Load, rounds: int) -> None:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for load, found in zip((ours, theirs), times, strict=True):
            found.append(seconds(load))
    a, b = (statistics.median(found) for found in times)
    ratios = [y / x for x, y in zip(*times, strict=True)]
    print(
        f"{what}: wcodec {a:.3f} s, safetensors {b:.3f} s, "
        f"{statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def status(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(field))


def peak(path: str, threads: int | None, out: multiprocessing.Queue[int]) -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM starts again
    base = status("VmRSS")
    tensors = wcodec.torch.load_file(path, threads=threads)
    held = sum(tensor.nbytes for tensor in tensors.values())
    out.put(status("VmHWM") - base - held)


def print_peak(path: str, threads: int | None) -> None:
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    process = context.Process(target=peak, args=(path, threads, out))
    process.start()
    print(f"peak RSS over imports and tensors: {out.get(timeout=120) / 1e6:.0f} MB")
    process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mb", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        plain, encoded = make(directory, args.mb)
        sizes = [os.path.getsize(path) / 1e6 for path in (plain, encoded)]
        print(f"{sizes[0]:.0f} MB of bf16, {sizes[1]:.0f} MB encoded")
        print_peak(encoded, args.threads)
        compare(
            "load_file, page cache",
            lambda: wcodec.torch.load_file(encoded, threads=args.threads),
            lambda: safetensors.torch.load_file(plain),
            args.rounds,
        )
        compare(
            "page cache, both into fresh memory",
            lambda: wcodec.torch.load_file(encoded, threads=args.threads),
            lambda: fresh_safetensors(plain),
            args.rounds,
        )
        for rate in (500e6, 2e9):
            compare(
                f"from {rate / 1e9:g} GB/s",
                lambda rate=rate: slow_wcodec(encoded, rate, args.threads),
                lambda rate=rate: slow_safetensors(plain, rate),
                args.rounds,
            )


if __name__ == "__main__":
    main()
