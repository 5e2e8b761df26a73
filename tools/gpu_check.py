#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check the GPU decoder on this machine's GPU and measure it.

    python tools/gpu_check.py --out DIR [--budget SECONDS]

Needs torch with CUDA and wcodec, no network and no data. Each section is a process of its own under
a time limit, so that one that fails does not cost the rest: environment, load, correctness,
corrupted, kernels, many_tensors, graph, end_to_end, peers, sanitizer. DIR/gpu_check.json gets all
results, standard output a short table. Speeds are medians; output bytes are those of the decoded
tensors, and the share of the roof is bytes read and written beside those of a copy on the same GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

import wcodec
from wcodec.codec import batch
from wcodec.codec.layout import all_blocks
from wcodec.container import Reader
from wcodec.cuda import device as device_module
from wcodec.cuda import driver
from wcodec.cuda.decoder import (
    CHUNK_BYTES,
    READ_THREADS,
    WARP_THREADS,
    Decoder,
    rans16_kernel,
    rans32_kernel,
    spatial_kernel,
)
from wcodec.cuda.device import CudaDevice, Device, kernel_names
from wcodec.decode import decode_budget
from wcodec.errors import CorruptError
from wcodec.windows import grid_of

ROOT = Path(__file__).parents[1]
COUNTS = ROOT / "tests" / "gpu" / "kernel_counts.json"
GOLDEN = ROOT / "tests" / "golden"
POISON = 0xA5
ELEMENTS_PER_COUNT = 512  # of an iteration of the pinned loops

# Sizes in bytes; those of --emulate are for a host that plays the GPU.
FULL = {"table": (8 << 30, 384 << 20), "unit": 64 << 20, "model": 8 << 30, "rounds": 9}
SMALL = {"table": (4 << 20, 1 << 20), "unit": 512 << 10, "model": 2 << 20, "rounds": 1}


class Poisoned:
    """A device whose tensors lie `offset` bytes off alignment, between bytes that must stay."""

    GUARD = 256

    def __init__(self, device: Device, offset: int) -> None:
        self._device = device
        self._offset = offset
        self._guarded: list[tuple[torch.Tensor, int]] = []
        self.kernels = device.kernels
        for name in ("host_empty", "empty_for_upload", "upload", "launch", "event", "download"):
            setattr(self, name, getattr(device, name))

    def empty(self, n_bytes: int) -> torch.Tensor:
        memory = self._device.empty(n_bytes + 2 * self.GUARD)
        memory.fill_(POISON)
        self._guarded.append((memory, n_bytes))
        begin = self.GUARD - self.GUARD // 2 + self._offset
        return memory[begin : begin + n_bytes]

    def check(self) -> None:
        begin = self.GUARD - self.GUARD // 2 + self._offset
        for memory, n_bytes in self._guarded:
            data = self._device.download(memory)
            outside = np.concatenate([data[:begin], data[begin + n_bytes :]])
            if (outside != POISON).any():
                raise AssertionError(f"bytes beside a tensor of {n_bytes} bytes have changed")


def arrays(elements: int) -> dict[str, np.ndarray]:
    """Layers of every form, of edge sizes and shapes."""
    import ml_dtypes

    random = np.random.default_rng(0)
    found = {}
    for name, dtype in (("f32", np.float32), ("f16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        values = (random.standard_normal(elements) * 0.02).astype(dtype)
        for n in (1, 127, 128, 129, 511, 1000, elements):
            found[f"{name}.{n}"] = values[:n]
        found[f"{name}.matrix"] = values[: elements // 700 * 700].reshape(-1, 700)
        found[f"{name}.wide"] = values[: elements // 2500 * 2500].reshape(-1, 2500)
        words = np.frombuffer(random.bytes(values.nbytes), dtype)
        found[f"{name}.random"] = words
        mixed = values.copy()
        mixed[::97] = words[::97]  # escapes
        found[f"{name}.escapes"] = mixed
        found[f"{name}.constant"] = np.full(5000, 1.5, dtype)
    found["f32.of_f16"] = found[f"f16.{elements}"].astype(np.float32)
    found["f32.of_bf16"] = found[f"bf16.{elements}"].astype(np.float32)
    integers = np.clip(random.standard_normal(elements) * 20, -127, 127).astype(np.int8)
    found["i8"] = integers[: elements // 300 * 300].reshape(-1, 300)
    found["f8"] = found[f"f32.{elements}"].astype(ml_dtypes.float8_e4m3fn)
    groups = found["f32.matrix"].copy()
    groups[::2] = groups[::2].astype(np.float16)
    found["f32.row_groups"] = groups
    found["i16"] = (found["f32.matrix"] * 5000).astype(np.int16)
    found["i8.smooth"] = smooth(elements // 300, 300).astype(np.int8)
    found["u16.smooth"] = (smooth(elements // 130, 130) * 200 + 30_000).astype(np.uint16)
    found["i64"] = np.cumsum(random.integers(0, 9, (60, 500)), axis=1)
    found["bytes"] = np.frombuffer(random.bytes(12_345), np.uint8)
    return found


def smooth(rows: int, cols: int) -> np.ndarray:
    """A matrix of integers up to 127 that resemble their neighbours, for the spatial coding."""
    noise = np.random.default_rng(5).standard_normal((rows, cols), np.float32)
    waves = 50 * np.sin(np.arange(cols) / 9) + 40 * np.cos(np.arange(rows) / 7)[:, None]
    return np.clip(np.rint(waves + 3 * noise), -127, 127)


def flip(path: Path, layer: str, block: int, offset: int) -> bytes:
    """The file with a bit of a block's payload flipped and all checksums of that layer's blocks and
    directory computed again.
    """
    data = bytearray(path.read_bytes())
    with Reader(path) as reader:
        entry, opened = reader.layers[layer], reader.open_layer(layer)
    directory = entry.record_offset + entry.directory_offset
    at = directory - int(opened.offsets[-1]) + int(opened.offsets[block])
    size = int(opened.offsets[block + 1] - opened.offsets[block])
    data[at + 16 + offset] ^= 1 << offset % 8
    end = directory + 16 + 16 * len(opened.headers)
    for place, begin, stop in (
        (at, at + 4, at + size),
        (directory + 16 + 16 * block, at, at + 4),
        (directory, directory + 4, end),
    ):
        same = place == directory + 16 + 16 * block
        data[place : place + 4] = (
            data[begin:stop] if same else zlib.crc32(data[begin:stop]).to_bytes(4, "little")
        )
    return bytes(data)


# ---- Sections ----


class Check:
    """What a section is given."""

    def __init__(self, device: Device, sizes: dict[str, Any], is_emulated: bool) -> None:
        self.device = device
        self.sizes = sizes
        self.is_emulated = is_emulated

    def seconds(self, work: Callable[[], None]) -> float:
        """The median time of `work`, which is asynchronous."""
        work()
        self.device.event().synchronize()
        times = []
        for _ in range(self.sizes["rounds"]):
            if self.is_emulated:
                start = time.perf_counter()
                work()
                self.device.event().synchronize()
                times.append(time.perf_counter() - start)
                continue
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            work()
            after.record()
            after.synchronize()
            times.append(before.elapsed_time(after) / 1e3)
        return statistics.median(times)

    def copy_rate(self, n_bytes: int) -> float:
        """Bytes a second that a copy on the device reads and writes."""
        a, b = self.device.empty(n_bytes), self.device.empty(n_bytes)
        return 2 * n_bytes / self.seconds(lambda: b.copy_(a))


def environment(check: Check) -> dict[str, Any]:
    size = check.sizes["table"][0] // 4
    found: dict[str, Any] = {
        "wcodec": wcodec.__version__,
        "torch": torch.__version__,
        "copy_bytes_per_second": check.copy_rate(size),
    }
    host = check.device.host_empty(size // 4)
    target = check.device.empty_for_upload(size // 4)
    rate = len(host) / check.seconds(lambda: check.device.upload(target, host))
    found["upload_bytes_per_second"] = rate
    if not check.is_emulated:
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "capability": list(torch.cuda.get_device_capability(0)),
            "cuda": torch.version.cuda,
        }
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"]
        if shutil.which("nvidia-smi"):
            found["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True).stdout
    return found


def load(check: Check) -> dict[str, Any]:
    if check.is_emulated:
        return {"kernels": len(check.device.kernels)}
    start = time.perf_counter()
    driver.Module(device_module.ptx())
    return {"kernels": len(kernel_names()), "seconds": time.perf_counter() - start}


def _compare(check: Check, path: Path, offset: int) -> int:
    device = Poisoned(check.device, offset)
    expected = wcodec.decode_checkpoint(path)
    with Reader(path) as reader, Decoder(device, decode_budget(None)) as decoder:
        found = {name: decoder.decode_named(reader, name) for name in reader.layers}
        decoder.finish()
        parts = {}
        for name in reader.layers:
            layer = reader.open_layer(reader.resolve(name).name)
            if len(layer.head.shape) == 2 and layer.head.shape == expected[name].shape:
                rows, cols = layer.head.shape
                positions = [range(rows // 3, rows, 2), range(cols // 5, cols)]
                parts[name] = decoder.decode_part(layer, positions)
        decoder.finish()
    for name, array in expected.items():
        if check.device.download(found[name]).tobytes() != array.tobytes():
            raise AssertionError(f"{path.name}: layer {name!r} differs, outputs {offset} bytes off")
        if name not in parts:
            continue
        rows, cols = array.shape
        part = array[rows // 3 :: 2, cols // 5 :]
        if check.device.download(parts[name]).tobytes() != part.tobytes():
            raise AssertionError(f"{path.name}: a part of {name!r} differs, {offset} bytes off")
    device.check()
    return len(expected)


def correctness(check: Check) -> dict[str, Any]:
    n_layers = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wcodec"
        wcodec.encode_checkpoint(arrays(20_000 if check.is_emulated else 500_000), path)
        for offset in (0, 16, 4, 2, 1):
            n_layers += _compare(check, path, offset)
    for path in sorted(GOLDEN.glob("*.wcodec")):
        n_layers += _compare(check, path, 0)
    return {"layers": n_layers}


def corrupted(check: Check) -> dict[str, Any]:
    """Bits flipped and sealed again: the GPU refuses what the CPU refuses, else gives the same."""
    refused = same = 0
    with tempfile.TemporaryDirectory() as folder:
        path, copy = Path(folder) / "a.wcodec", Path(folder) / "b.wcodec"
        wcodec.encode_checkpoint(
            {n: a for n, a in arrays(20_000).items() if n.endswith(("escapes", "smooth"))}, path
        )
        with Reader(path) as reader:
            sizes = {
                n: int(reader.open_layer(n).headers["payload_bytes"][0]) for n in reader.layers
            }
        for layer, size in sizes.items():
            for offset in np.linspace(0, size - 1, 8 if check.is_emulated else 60).astype(int):
                copy.write_bytes(flip(path, layer, 0, int(offset)))
                expected: bytes | None = None
                with contextlib.suppress(CorruptError):
                    expected = wcodec.decode_layer(copy, layer).tobytes()
                try:
                    with Reader(copy) as reader, Decoder(check.device, decode_budget(1)) as decoder:
                        data = decoder.decode_named(reader, layer)
                        decoder.finish()
                    found: bytes | None = check.device.download(data).tobytes()
                except CorruptError:
                    found = None
                if found != expected:
                    raise AssertionError(f"{layer!r}, byte {offset}: the GPU and the CPU disagree")
                refused, same = refused + (found is None), same + (found is not None)
    return {"refused": refused, "same": same}


class Replicas:
    """Blocks of one array, many times in the memory of the device, to decode in one launch."""

    def __init__(
        self, check: Check, array: np.ndarray, level: str, output_bytes: int, folder: str
    ) -> None:
        self._device = check.device
        path = os.path.join(folder, "replica.wcodec")
        wcodec.encode_checkpoint({"a": array}, path, level=level)
        with Reader(path) as reader:
            layer = reader.open_layer("a")
            grid, n = grid_of(layer.head), len(layer.headers)
            blocks = layer.read_blocks(0, n)
        self.stored_bytes = int(layer.offsets[-1])
        room = -(-self.stored_bytes // 256) * 256
        count = max(1, output_bytes // array.nbytes)
        self.output_bytes = count * array.nbytes
        self._output = check.device.empty(self.output_bytes)
        self._data = check.device.empty(count * room)
        data = torch.from_numpy(blocks.data[: self.stored_bytes])
        described = batch.describe_blocks(
            batch.Blocks(blocks.headers, blocks.data),
            layer.head.family,
            all_blocks([grid]),
            array.nbytes,
            grid.unit_bytes,
            data_address=self._data.data_ptr(),
            matrix_address=self._output.data_ptr(),
            layer="a",
            numbers=np.arange(n),
        )
        if len(described.streams):
            (form,) = set(described.forms.tolist())
            self.form, self.kernel = batch.FORM_NAMES[form], rans16_kernel(form)
            records = described.streams.view("<u8").reshape(1, len(described.streams), -1)
        elif len(described.spatial):
            self.form, self.kernel = "spatial", spatial_kernel(grid.unit_bytes)
            records = described.spatial.view("<u8").reshape(1, len(described.spatial), -1)
        else:
            self.form, self.kernel = "rans32", rans32_kernel(grid.unit_bytes)
            records = described.rans32.view("<u8").reshape(1, len(described.rans32), -1)
        self._parameters = check.device.empty(len(described.parameters))
        self._parameters.copy_(torch.from_numpy(described.parameters))
        shifts = np.arange(count, dtype=np.uint64)[:, None]
        records = np.tile(records, (count, 1, 1))
        records[:, :, 0] += shifts * np.uint64(room)
        records[:, :, 1] += shifts * np.uint64(array.nbytes)
        if not len(described.streams):
            kind = batch.SPATIAL_DESCRIPTOR if len(described.spatial) else batch.RANS32_DESCRIPTOR
            at = kind.fields["parameters"][1] // 8
            records[:, :, at] += np.uint64(self._parameters.data_ptr())
        self.n_streams = count * records.shape[1]
        host = torch.from_numpy(records.reshape(-1).view(np.uint8))
        self._streams = check.device.empty(len(host))
        self._status = check.device.empty(4 * self.n_streams)
        self._streams.copy_(host)
        for i in range(count):
            self._data[i * room : i * room + len(data)].copy_(data)
        self.stored_bytes *= count
        self._expected = array

    def launch(self) -> None:
        self._device.launch(
            self.kernel,
            self.n_streams,
            WARP_THREADS,
            self._streams.data_ptr(),
            self._status.data_ptr(),
        )

    def poison(self) -> None:
        """Overwrite what was decoded, and the statuses."""
        self._output.fill_(POISON)
        self._status.fill_(POISON)

    def check(self) -> None:
        assert not self._device.download(self._status).any()
        size = self._expected.nbytes
        for part in (self._output[:size], self._output[-size:]):
            assert self._device.download(part).tobytes() == self._expected.tobytes()


def predicted(form: str, check: Check) -> float | None:
    """Output bytes a second if a multiprocessor issued four instructions a clock, all of the pinned
    loop and no others.
    """
    counts = json.loads(COUNTS.read_text())["sm_90"]
    if check.is_emulated or form not in counts:
        return None
    properties = torch.cuda.get_device_properties(0)
    clock = getattr(properties, "clock_rate", 0) * 1e3 or 1.98e9
    loops = 4 * properties.multi_processor_count * clock / counts[form]["loop_instructions"]
    unit_bytes = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1, "fp8": 1}[form.split("_")[0]]
    return loops * ELEMENTS_PER_COUNT * unit_bytes


def kernels(check: Check) -> dict[str, Any]:
    import ml_dtypes

    n = check.sizes["unit"]
    random = np.random.default_rng(1)
    normal = (random.standard_normal(n // 2, np.float32) * np.float32(0.02)).reshape(-1, 1024)
    scales = np.exp2(random.integers(-6, 6, normal.shape[0])).astype(np.float32)[:, None]
    cases = {
        "bf16": normal.astype(ml_dtypes.bfloat16),
        "bf16, many scales": (normal * scales).astype(ml_dtypes.bfloat16),
        "fp16": normal.astype(np.float16),
        "fp32": normal[: len(normal) // 2],
        "fp32 of fp16": normal[: len(normal) // 2].astype(np.float16).astype(np.float32),
        "fp32 of bf16": normal[: len(normal) // 2].astype(ml_dtypes.bfloat16).astype(np.float32),
        # Scales at which rans16 takes bytes.
        "int8": np.clip(np.rint(normal * 700), -127, 127).astype(np.int8),
        "fp8 e4m3": (normal * 50).astype(ml_dtypes.float8_e4m3fn),
        "int16": (normal * 50_000).astype(np.int16),
        "int8, smooth": smooth(*normal.shape).astype(np.int8),
        "int16, smooth": (smooth(*normal.shape) * 200).astype(np.int16),
    }
    # A part, since this level is slow to encode.
    cases["bf16, max"] = cases["bf16, many scales"][: len(normal) // 8]
    roof = check.copy_rate(check.sizes["table"][0] // 4)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, array in cases.items():
            for output_bytes in check.sizes["table"]:
                if not check.is_emulated:
                    output_bytes = min(output_bytes, torch.cuda.mem_get_info()[0] // 4)
                level = "max" if name.endswith("max") else "default"
                replicas = Replicas(check, array, level, output_bytes, folder)
                seconds = check.seconds(replicas.launch)
                replicas.check()
                moved = replicas.output_bytes + replicas.stored_bytes
                rows.append(
                    {
                        "case": name,
                        "form": replicas.form,
                        "output_bytes": replicas.output_bytes,
                        "streams": replicas.n_streams,
                        "output_bytes_per_second": replicas.output_bytes / seconds,
                        "share_of_copy": moved / seconds / roof,
                        "predicted_by_instructions": predicted(replicas.form, check),
                    }
                )
                del replicas
    return {"copy_bytes_per_second": roof, "rows": rows}


def many_tensors(check: Check) -> dict[str, Any]:
    """300 tensors of many shapes in one launch for each form."""
    random = np.random.default_rng(2)
    tensors = {}
    for i in range(300):
        shape = random.integers(1, 40 if check.is_emulated else 900, 2)
        tensors[str(i)] = (random.standard_normal(shape) * 0.02).astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.wcodec"
        wcodec.encode_checkpoint(tensors, path)
        start = time.perf_counter()
        with Reader(path) as reader, Decoder(check.device, decode_budget(None)) as decoder:
            found = {name: decoder.decode_named(reader, name) for name in reader.layers}
            decoder.finish()
        seconds = time.perf_counter() - start
    for name, array in tensors.items():
        assert check.device.download(found[name]).tobytes() == array.tobytes(), name
    return {"tensors": len(tensors), "seconds": seconds}


def graph(check: Check) -> dict[str, Any]:
    """Launches captured in a CUDA graph: replayed they decode again; their time and plain ones'."""
    if check.is_emulated:
        return {"cuda_graph": "there is none without a GPU"}
    random = np.random.default_rng(4)
    n = check.sizes["unit"] >> 7
    array = (random.standard_normal((n // 1024, 1024)) * 0.02).astype(np.float16)
    launches = 50
    with tempfile.TemporaryDirectory() as folder:
        replicas = Replicas(check, array, "default", 4 * array.nbytes, folder)

    def launch_all() -> None:
        for _ in range(launches):
            replicas.launch()

    launch_all()  # what happens once must not be captured
    check.device.event().synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        launch_all()
    replicas.poison()
    captured.replay()
    replicas.check()
    return {
        "launches": launches,
        "output_bytes_per_launch": replicas.output_bytes,
        "replay_seconds": check.seconds(captured.replay),
        "launch_seconds": check.seconds(launch_all),
    }


def drop_from_cache(path: Path) -> None:
    """Ask the kernel to forget what it holds of a file; it does so where that is on a disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def cold_read_rate(path: Path, flags: int = 0) -> float | None:
    """Bytes a second of a file that is not in the page cache, by reads as the decoder makes them;
    None where it cannot be opened with these flags.
    """
    drop_from_cache(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | flags)
    except OSError:
        return None
    size = os.fstat(descriptor).st_size

    def read(thread: int) -> None:
        target = mmap.mmap(-1, CHUNK_BYTES)  # at a multiple of a page, as O_DIRECT wants it
        for start in range(thread * CHUNK_BYTES, size, READ_THREADS * CHUNK_BYTES):
            os.preadv(descriptor, [target], start)

    try:
        begin = time.perf_counter()
        with ThreadPoolExecutor(READ_THREADS) as threads:
            list(threads.map(read, range(READ_THREADS)))
        return size / (time.perf_counter() - begin)
    finally:
        os.close(descriptor)


def end_to_end(check: Check) -> dict[str, Any]:
    """A bf16 checkpoint to the device: wcodec beside safetensors, from the page cache and, once,
    from a file that is not in it, with what reading alone takes, through the cache and past it.
    """
    import ml_dtypes
    import safetensors.torch
    from safetensors.numpy import save_file

    shape = (1024, 1024) if check.is_emulated else (8192, 8192)
    count = max(1, check.sizes["model"] // (2 * math.prod(shape)))
    random = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        free = shutil.disk_usage(folder).free
        count = min(count, max(1, int(free * 0.3) // (2 * math.prod(shape))))
        # A few of random numbers, and the same ones in other places, for speed.
        bases = []
        for _ in range(min(count, 4)):
            values = random.standard_normal(shape, np.float32) * np.float32(0.02)
            bases.append(values.astype(ml_dtypes.bfloat16))
        tensors = {
            f"layers.{i}.weight": np.roll(bases[i % len(bases)], i, axis=1) for i in range(count)
        }
        plain, encoded = Path(folder) / "m.safetensors", Path(folder) / "m.wcodec"
        save_file(tensors, plain)
        n_bytes = sum(array.nbytes for array in tensors.values())
        expected = {name: array[0].tobytes()[:4096] for name, array in tensors.items()}
        del tensors, bases
        wcodec.encode_checkpoint(plain, encoded)
        where = "cpu" if check.is_emulated else "cuda"
        times: dict[str, list[float]] = {"wcodec": [], "safetensors": []}

        def load_ours() -> dict[str, torch.Tensor]:
            if check.is_emulated:
                device_module.open_device = lambda device: check.device
            return wcodec.load_to_torch(encoded, device="cuda")

        def load_theirs() -> dict[str, torch.Tensor]:
            return safetensors.torch.load_file(plain, device=where)

        def seconds(work: Callable[[], dict[str, torch.Tensor]]) -> float:
            start = time.perf_counter()
            found = work()
            check.device.event().synchronize()
            took = time.perf_counter() - start
            for layer, begin in expected.items():
                part = found[layer].reshape(-1).view(torch.uint8)[: len(begin)]
                assert check.device.download(part).tobytes() == begin
            return took

        both = {"safetensors": (plain, load_theirs), "wcodec": (encoded, load_ours)}
        for _ in range(min(3, check.sizes["rounds"])):
            for name, (_, work) in both.items():
                times[name].append(seconds(work))
        cold: dict[str, float | None] = {}
        for name, (path, work) in both.items():
            drop_from_cache(path)
            cold[f"{name}_seconds"] = seconds(work)
        cold["read_bytes_per_second"] = cold_read_rate(encoded)
        cold["direct_bytes_per_second"] = cold_read_rate(encoded, os.O_DIRECT)
    ours, theirs = (statistics.median(times[name]) for name in ("wcodec", "safetensors"))
    return {
        "data_bytes": n_bytes,
        "wcodec_seconds": ours,
        "safetensors_seconds": theirs,
        "times_as_fast": theirs / ours,
        "cold": cold,
    }


def peers(check: Check) -> dict[str, Any]:
    """nvCOMP's ANS on the bytes of the same bf16 values, where its wheel is at hand."""
    try:
        from nvidia import nvcomp
    except ImportError:
        return {"nvcomp": "not installed"}
    import ml_dtypes

    n = check.sizes["table"][1]
    values = np.random.default_rng(1).standard_normal(n // 2, np.float32) * np.float32(0.02)
    data = torch.from_numpy(values.astype(ml_dtypes.bfloat16).view(np.uint8)).cuda()
    codec = nvcomp.Codec(algorithm="ANS")
    encoded = codec.encode(nvcomp.as_array(data))
    seconds = check.seconds(lambda: codec.decode(encoded))
    return {
        "nvcomp": getattr(nvcomp, "__version__", "unknown"),
        "output_bytes_per_second": n / seconds,
        "ratio": n / encoded.buffer_size,
    }


def sanitizer(check: Check) -> dict[str, Any]:
    """The corrupted section again, under compute-sanitizer."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if check.is_emulated or not os.path.exists(tool):
        return {"compute_sanitizer": "not at hand"}
    with tempfile.TemporaryDirectory() as folder:
        command = [tool, "--error-exitcode", "9", sys.executable, __file__]
        command += ["--section", "corrupted", "--json", os.path.join(folder, "x.json")]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError((done.stdout + done.stderr)[-2000:])
    return {"compute_sanitizer": done.stdout.strip().splitlines()[-1:]}


# Section and its time limit in seconds, in order of worth.
SECTIONS: dict[Callable[[Check], dict[str, Any]], int] = {
    environment: 60,
    load: 60,
    correctness: 120,
    corrupted: 90,
    kernels: 180,
    many_tensors: 60,
    graph: 60,
    end_to_end: 240,
    peers: 60,
    sanitizer: 120,
}
BY_NAME = {section.__name__: section for section in SECTIONS}


def run_section(name: str, is_emulated: bool) -> dict[str, Any]:
    if is_emulated:
        sys.path.insert(0, str(ROOT / "tests"))
        from support.emulated_device import EmulatedDevice

        return BY_NAME[name](Check(EmulatedDevice(), SMALL, True))
    return BY_NAME[name](Check(CudaDevice(torch.device("cuda", 0)), FULL, False))


def run_all(out: Path, budget: float, is_emulated: bool) -> dict[str, Any]:
    """Run every section in a process of its own; results by name, errors as text."""
    until = time.monotonic() + budget
    results: dict[str, Any] = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    for section, limit in SECTIONS.items():
        name = section.__name__
        left = until - time.monotonic()
        if left < 5:
            results[name] = {"error": "no time was left"}
            continue
        target = out / f"{name}.json"
        command = [sys.executable, __file__, "--section", name, "--json", str(target)]
        command += ["--emulate"] if is_emulated else []
        started = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=min(limit, left))
            if done.returncode == 0:
                results[name] = json.loads(target.read_text())
            else:
                results[name] = {"error": (done.stdout + done.stderr)[-3000:]}
        except subprocess.TimeoutExpired:
            results[name] = {"error": f"took longer than {min(limit, left):.0f} s"}
        results[name]["took_seconds"] = round(time.monotonic() - started, 2)
        target.unlink(missing_ok=True)
        (out / "gpu_check.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def table(results: dict[str, Any]) -> list[str]:
    lines = []
    for name in BY_NAME:
        result = results[name]
        if "error" in result:
            lines.append(f"{name}: FAILED: {result['error'].strip().splitlines()[-1]}")
            continue
        lines.append(f"{name}: ok, {result['took_seconds']:.0f} s")
        for row in result.get("rows", ()):
            lines.append(
                f"  {row['case']:18} {row['form']:15} {row['output_bytes'] / 1e9:6.2f} GB "
                f"{row['output_bytes_per_second'] / 1e12:6.3f} TB/s of output, "
                f"{row['share_of_copy']:.2f} of a copy's traffic"
            )
        if name == "end_to_end":
            lines.append(f"  {result['times_as_fast']:.2f} times as fast as safetensors")
            cold = result["cold"]
            lines.append(
                f"  not in the page cache: {cold['wcodec_seconds']:.1f} s, "
                f"safetensors {cold['safetensors_seconds']:.1f} s"
            )
            for way in ("read", "direct"):
                rate = cold[f"{way}_bytes_per_second"]
                lines.append(f"  {way}: {rate / 1e9:.2f} GB/s" if rate else f"  {way}: not here")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder of gpu_check.json")
    parser.add_argument("--budget", type=float, default=480, help="seconds for all sections")
    parser.add_argument("--emulate", action="store_true", help="a host plays the GPU, in small")
    parser.add_argument("--section", choices=BY_NAME, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.section:
        found = run_section(arguments.section, arguments.emulate)
        arguments.json.write_text(json.dumps(found))
        return 0
    if arguments.out is None:
        parser.error("--out names a folder for the results")
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = run_all(arguments.out, arguments.budget, arguments.emulate)
    print("\n".join(table(results)))
    return 1 if any("error" in results[name] for name in BY_NAME) else 0


if __name__ == "__main__":
    sys.exit(main())
