# SPDX-License-Identifier: Apache-2.0
"""The GPU's rans16 decoder, its warp emulated on the host (emulated_warp.cpp), for tests.

Payloads are parsed and checked here, as the driver of the kernels has to do it; the emulated kernel
then gets the same descriptors that the GPU would get.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from support.rans16_streams import (
    FIELD_MAPS,
    LANES,
    NO_ESCAPE,
    step_raw_bytes,
    stream_steps,
)

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "src" / "wcodec" / "cuda" / "kernels"
INCLUDES = (ROOT / "core", KERNELS)
SOURCES = (
    Path(__file__).with_suffix(".cpp"),
    KERNELS / "copy_block.hpp",
    KERNELS / "rans16_warp.hpp",
    KERNELS / "rans32_warp.hpp",
    KERNELS / "spatial_warp.hpp",
    KERNELS / "token_warp.hpp",
    KERNELS / "warp.hpp",
    ROOT / "core" / "gpu_descriptors.hpp",
    ROOT / "core" / "stream_format.hpp",
)
CANARY = 0xA5
RANS16, RANS32, SPATIAL = 2, 3, 4  # codings

# struct StreamDescriptor of rans16_warp.hpp
STREAM_DESCRIPTOR = np.dtype(
    [
        ("payload", "<u8"),
        ("output", "<u8"),
        ("row_stride", "<u8"),
        ("row_units", "<u4"),
        ("table_offset", "<u4"),
        ("states_offset", "<u4"),
        ("stream_bytes", "<u4"),
        ("escapes_offset", "<u4"),
        ("n_escapes", "<u4"),
        ("raw_offset", "<u4"),
        ("first_step", "<u4"),
        ("n_steps", "<u4"),
        ("tail_units", "<u2"),
        ("n_symbols", "u1"),
        ("escape", "u1"),
    ]
)
assert STREAM_DESCRIPTOR.itemsize == 64

# struct CopyDescriptor of copy_block.hpp
COPY_DESCRIPTOR = np.dtype(
    [
        ("source", "<u8"),
        ("output", "<u8"),
        ("row_stride", "<u8"),
        ("row_map", "<u8"),
        ("source_stride", "<u4"),
        ("row_bytes", "<u4"),
        ("n_rows", "<u4"),
        ("unit_bytes", "<u4"),
    ]
)

STATUS_STATES = 1
STATUS_BYTES = 2
STATUS_ESCAPES = 4
STATUS_RAW = 8
STATUS_PADDING = 16


class PayloadError(ValueError):
    """A payload breaks a rule of docs/format.md section 8."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PayloadError(message)


def parse_payload(payload: bytes, form: int, n_streams: int, n_units: int) -> np.ndarray:
    """Check all of a payload but the bytes of its streams, escapes and raw fields.

    Return a descriptor for each stream, for a contiguous output; addresses are left 0.
    """
    _require(form in FIELD_MAPS, f"form {form} is unknown")
    _require(n_streams in (1, 2, 4), f"{n_streams} streams: not 1, 2 or 4")
    field_map = FIELD_MAPS[form]
    unit_bytes = field_map.unit_bytes
    limit = min(1 << 24, (1 << 25) // unit_bytes)
    _require(1 <= n_units <= limit, f"{n_units} units: not 1 to {limit}")
    n_steps, tail_units = divmod(n_units, LANES)

    def part(offset: int, size: int, what: str) -> bytes:
        _require(offset + size <= len(payload), f"{what} run past the payload")
        return payload[offset : offset + size]

    def zeros_to_16(offset: int, what: str) -> int:
        size = -offset % 16
        _require(not any(part(offset, size, f"zero bytes after {what}")), f"{what}: padding")
        return offset + size

    n_symbols, escape, *reserved = part(0, 4, "fixed fields")
    _require(2 <= n_symbols <= 64, f"{n_symbols} symbols: not 2 to 64")
    _require(escape in (NO_ESCAPE, n_symbols - 1), f"escape {escape} of {n_symbols} symbols")
    _require(not any(reserved), "reserved bytes are not zero")

    sizes = np.frombuffer(part(4, 8 * n_streams, "stream sizes"), "<u4").reshape(-1, 2).tolist()
    table_offset = 4 + 8 * n_streams
    frequencies = part(table_offset, n_symbols, "frequencies")
    _require(all(frequencies), "a frequency is zero")
    _require(sum(frequencies) == 256, f"frequencies sum to {sum(frequencies)}")
    offset = table_offset + n_symbols
    _require(not any(part(offset, n_symbols % 2, "zero byte")), "frequencies: padding")
    offset += n_symbols % 2
    values = np.frombuffer(part(offset, 2 * n_symbols, "values"), "<u2").astype(int)
    _require(not (values & ~field_map.value_mask).any(), "a value is outside the value mask")
    in_order = values
    if escape != NO_ESCAPE:
        _require(values[-1] == 0, "the value of the escape symbol is not zero")
        in_order = values[:-1]
    _require(bool((np.diff(in_order) > 0).all()), "values are not ascending")
    offset = zeros_to_16(offset + 2 * n_symbols, "values")

    streams = np.zeros(n_streams, STREAM_DESCRIPTOR)
    streams["row_stride"] = n_units * unit_bytes
    streams["row_units"] = n_units
    streams["table_offset"] = table_offset
    streams["n_symbols"] = n_symbols
    streams["escape"] = escape
    streams["n_steps"] = stream_steps(n_steps, n_streams)
    streams["first_step"] = np.cumsum(streams["n_steps"]) - streams["n_steps"]
    for stream, (stream_bytes, n_escapes) in zip(streams, sizes, strict=True):
        stream_units = LANES * int(stream["n_steps"])
        _require(stream_bytes <= stream_units, f"stream of {stream_bytes} bytes")
        _require(n_escapes <= stream_units, f"{n_escapes} escapes")
        _require(n_escapes == 0 or escape != NO_ESCAPE, "escapes without an escape symbol")
        stream["states_offset"] = offset
        stream["stream_bytes"] = stream_bytes
        stream["n_escapes"] = n_escapes
        part(offset, 256 + stream_bytes, "stream")
        offset = zeros_to_16(offset + 256 + stream_bytes, "stream")
    for stream in streams:
        size = int(stream["n_escapes"]) * (1 if field_map.escape_shift else 2)
        stream["escapes_offset"] = offset
        part(offset, size, "escapes")
        offset = zeros_to_16(offset + size, "escapes")
    streams["raw_offset"] = offset + step_raw_bytes(form) * streams["first_step"]
    streams["tail_units"][-1] = tail_units
    size = offset + step_raw_bytes(form) * n_steps + unit_bytes * tail_units
    _require(size == len(payload), f"payload is {len(payload)} bytes, its fields say {size}")
    return streams


# ---- Building ------------------------------------------------------------------------------------


@functools.cache
def compiler() -> list[str] | None:
    """The C++20 compiler: that of $CXX, or g++, or c++."""
    for candidate in (os.environ.get("CXX", ""), "g++", "c++"):
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            probe = [*command, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"]
            source = "#include <bit>\nint x = std::popcount(1u);"
            if subprocess.run(probe, input=source, text=True, capture_output=True).returncode == 0:
                return command
    return None


def _build(name: str, flags: list[str]) -> Path:
    """Compile emulated_warp.cpp; the result is kept by the hash of sources and command."""
    command = compiler()
    if command is None:
        raise RuntimeError("no C++20 compiler: set CXX")
    command = [*command, "-std=c++20", *flags]
    command += [f"-I{path}" for path in INCLUDES]
    digest = hashlib.sha256(repr(command).encode())
    for source in SOURCES:
        digest.update(source.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"wcodec-emulated-warp-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to another user")
    target = folder / f"{name}-{digest.hexdigest()[:16]}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = Path(scratch) / name
            result = subprocess.run(
                [*command, str(SOURCES[0]), "-o", str(built)], capture_output=True, text=True
            )
            if result.returncode != 0:
                raise RuntimeError(f"cannot compile {SOURCES[0].name}:\n{result.stderr}")
            built.replace(target)
    return target


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(_build("library", ["-O2", "-shared", "-fPIC", "-fvisibility=hidden"]))
    for decode in (library.emulate_streams, library.emulate_rans32, library.emulate_spatial):
        decode.argtypes = [ctypes.c_uint32, ctypes.c_uint32] + 2 * [ctypes.c_void_p]
        decode.restype = None
    library.emulate_copy.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.emulate_copy.restype = None
    return library


@functools.cache
def sanitized_program() -> Path:
    """The program that decodes cases under AddressSanitizer and UBSan."""
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    return _build("program", ["-g1", *sanitizers, "-DEMULATED_WARP_MAIN"])


# ---- Decoding ------------------------------------------------------------------------------------


def aligned(size: int, offset: int = 0) -> np.ndarray:
    """Canary bytes whose address is `offset` above a multiple of 64."""
    memory = np.full(size + offset + 64, CANARY, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    return memory[start : start + size]


def run_streams(form: int, n_streams: int, streams: int, status: int) -> None:
    """Decode streams: addresses of their descriptors and of their statuses."""
    _library().emulate_streams(form, n_streams, streams, status)


def run_rans32(unit_bytes: int, n_blocks: int, blocks: int, status: int) -> None:
    """Decode rans32 blocks: addresses of their descriptors and of their statuses."""
    _library().emulate_rans32(unit_bytes, n_blocks, blocks, status)


def run_spatial(unit_bytes: int, n_blocks: int, blocks: int, status: int) -> None:
    """Decode spatial blocks: addresses of their descriptors and of their statuses."""
    _library().emulate_spatial(unit_bytes, n_blocks, blocks, status)


def run_copies(n_blocks: int, n_threads: int, blocks: int) -> None:
    """Copy or fill blocks: the address of their descriptors."""
    for i in range(n_blocks):
        _library().emulate_copy(blocks + i * COPY_DESCRIPTOR.itemsize, n_threads)


class Block:
    """A checked payload, and where its output goes."""

    def __init__(
        self,
        payload: bytes,
        form: int,
        n_streams: int,
        n_units: int,
        *,
        row_units: int | None = None,
        row_stride: int | None = None,
        output_offset: int = 0,
    ) -> None:
        """`row_stride` is in bytes; `output_offset` counts from a multiple of 64 bytes."""
        self.payload = payload
        self.form = form
        self.unit_bytes = FIELD_MAPS[form].unit_bytes
        self.streams = parse_payload(payload, form, n_streams, n_units)
        self.row_units = row_units or n_units
        self.n_rows, rest = divmod(n_units, self.row_units)
        assert rest == 0
        self.row_bytes = self.row_units * self.unit_bytes
        self.row_stride = row_stride or self.row_bytes
        assert self.row_stride >= self.row_bytes
        self.output_offset = output_offset
        self.output_bytes = (self.n_rows - 1) * self.row_stride + self.row_bytes
        self.streams["row_units"] = self.row_units
        self.streams["row_stride"] = self.row_stride

    def collect(self, output: np.ndarray) -> bytes:
        """The block's bytes out of the output; the bytes between its rows must be untouched."""
        gap = self.row_stride - self.row_bytes
        rows = np.append(output, np.full(gap, CANARY, np.uint8)).reshape(self.n_rows, -1)
        assert (rows[:, self.row_bytes :] == CANARY).all()
        return rows[:, : self.row_bytes].tobytes()

    def decode(self) -> tuple[bytes, list[int]]:
        payload = aligned(len(self.payload))
        payload[:] = np.frombuffer(self.payload, np.uint8)
        # Canaries before and after the output as well.
        output = aligned(self.output_bytes + 128, self.output_offset)
        self.streams["payload"] = payload.ctypes.data
        self.streams["output"] = output.ctypes.data + 64
        status = np.full(len(self.streams), 0xFFFFFFFF, np.uint32)
        _library().emulate_streams(
            self.form, len(self.streams), self.streams.ctypes.data, status.ctypes.data
        )
        assert (output[:64] == CANARY).all()
        assert (output[-64:] == CANARY).all()
        return self.collect(output[64:-64]), status.tolist()


def decode_block_emulated(
    payload: bytes,
    form: int,
    n_streams: int,
    n_units: int,
    *,
    row_units: int | None = None,
    row_stride: int | None = None,
    output_offset: int = 0,
) -> tuple[bytes, list[int]]:
    """Decode a payload; return the bytes of its units and the status of each stream."""
    block = Block(
        payload,
        form,
        n_streams,
        n_units,
        row_units=row_units,
        row_stride=row_stride,
        output_offset=output_offset,
    )
    return block.decode()


def decode_blocks_sanitized(blocks: list[Block]) -> list[tuple[bytes, list[int]]]:
    """Decode blocks in the sanitized program; a sanitizer's complaint is a RuntimeError."""
    cases = []
    for block in blocks:
        block.streams["payload"] = block.streams["output"] = 0
        cases.append(
            SanitizedCase(
                RANS16,
                block.form,
                block.streams.tobytes(),
                block.payload,
                b"",
                len(block.streams),
                block.output_bytes,
                block.output_offset,
            )
        )
    answers = run_sanitized(cases)
    return [
        (block.collect(output), status)
        for block, (output, status) in zip(blocks, answers, strict=True)
    ]


@dataclass(frozen=True)
class SanitizedCase:
    """What struct Case of emulated_warp.cpp says; `kernel` is a form or unit_bytes."""

    coding: int
    kernel: int
    descriptors: bytes
    payload: bytes
    parameters: bytes
    n_descriptors: int
    output_bytes: int
    output_offset: int = 0

    def pack(self) -> bytes:
        sizes = [self.n_descriptors, len(self.payload), len(self.parameters)]
        sizes += [self.output_bytes, self.output_offset]
        head = np.array([self.coding, self.kernel], "<u4").tobytes()
        head += np.array(sizes, "<u8").tobytes()
        return head + self.descriptors + self.payload + self.parameters


def run_sanitized(cases: list[SanitizedCase]) -> list[tuple[np.ndarray, list[int]]]:
    """The output and the statuses of each case; a sanitizer's complaint is a RuntimeError."""
    data = b"".join(case.pack() for case in cases)
    result = subprocess.run([sanitized_program()], input=data, capture_output=True)
    if result.returncode != 0:
        raise RuntimeError(result.stderr.decode(errors="replace"))
    answers = []
    at = 0
    for case in cases:
        status = np.frombuffer(result.stdout, "<u4", case.n_descriptors, at)
        at += status.nbytes
        output = np.frombuffer(result.stdout, np.uint8, case.output_bytes, at)
        at += output.nbytes
        answers.append((output, status.tolist()))
    assert at == len(result.stdout)
    return answers


def copy_block_emulated(
    source: np.ndarray,
    output: np.ndarray,
    *,
    row_stride: int,
    row_bytes: int,
    n_rows: int,
    unit_bytes: int = 0,
    row_map: np.ndarray | None = None,
    source_stride: int | None = None,
) -> None:
    """Copy rows of bytes, or fill them with one unit of `unit_bytes`."""
    block = np.zeros(1, COPY_DESCRIPTOR)
    block["source"] = source.ctypes.data
    block["output"] = output.ctypes.data
    block["row_stride"] = row_stride
    block["row_bytes"] = row_bytes
    block["n_rows"] = n_rows
    block["source_stride"] = row_bytes if source_stride is None else source_stride
    block["unit_bytes"] = unit_bytes
    if row_map is not None:
        block["row_map"] = row_map.ctypes.data
    _library().emulate_copy(block.ctypes.data, 256)
