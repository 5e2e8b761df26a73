"""Blocks to bytes and back, many at once: the one door to the compiled core (beside checksum.py).

The core codes raw, constant and rans16 blocks and checks every block; lz blocks and row-group maps
are zstd frames, coded here. Blocks are passed as one array of descriptors, their headers as one
array of `BLOCK_HEADER`, their bytes back to back as in the file.
"""

import io
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wcodec import _core, zstd_frame
from wcodec.block_header import BLOCK_ALIGNMENT, BLOCK_HEADER, block_name, block_sizes
from wcodec.errors import CorruptError, WcodecError
from wcodec.overlap import Buffers

LANES = _core.LANES
MAX_BLOCK_UNITS = _core.MAX_BLOCK_UNITS
MAX_BLOCK_BYTES = _core.MAX_BLOCK_BYTES
MAX_ROW_GROUPS = _core.MAX_ROW_GROUPS
MIN_TILE_SIZE = 1 << _core.MIN_TILE_LOG2
NO_ROW_INDEX = _core.NO_ROW_INDEX
READ_SLACK_BYTES = _core.READ_SLACK_BYTES
STREAMING_ALIGNMENT = _core.STREAMING_ALIGNMENT

RAW = _core.CODING_RAW
CONSTANT = _core.CODING_CONSTANT
RANS16 = _core.CODING_RANS16
RANS32 = _core.CODING_RANS32
SPATIAL = _core.CODING_SPATIAL
LZ = _core.CODING_LZ
ROW_GROUPS = _core.CODING_ROW_GROUPS
CODING_NAMES = {
    RAW: "raw",
    CONSTANT: "constant",
    RANS16: "rans16",
    RANS32: "rans32",
    SPATIAL: "spatial",
    LZ: "lz",
}

SPATIAL_SIGNED = _core.SPATIAL_SIGNED
SPATIAL_UNSIGNED = _core.SPATIAL_UNSIGNED
SPATIAL_FLOAT = _core.SPATIAL_FLOAT
BF16_FORMS = 1 << _core.FORM_BF16_E8 | 1 << _core.FORM_BF16_E8M1
FP16_FORMS = 1 << _core.FORM_FP16_E5M1
FP32_FORMS = sum(1 << form for form in range(_core.FORM_FP32_E8, _core.FORM_FP32_E8M1_Z16 + 1))
INT8_FORMS = sum(1 << form for form in range(_core.FORM_INT8_T4, _core.FORM_INT8_T8 + 1))
FP8_FORMS = INT8_FORMS | 1 << _core.FORM_FP8_T5

DESCRIPTOR = np.dtype(
    [
        ("matrix_offset", "<u8"),
        ("row_stride", "<u8"),
        ("data_offset", "<u8"),
        ("row_index_first", "<u8"),
        ("rows", "<u4"),
        ("cols", "<u4"),
    ]
)
NO_ROWS = np.empty(0, dtype=np.uint32)

Bytes = NDArray[np.uint8]


def n_processors() -> int:
    """Processors that this process may use; all where the system does not say which."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(threads: int | None) -> int:
    """Threads to use: the argument, else WCODEC_THREADS, else all processors of the process."""
    if threads is None:
        text = os.environ.get("WCODEC_THREADS", "")
        if text and not text.isdecimal():
            raise ValueError(f"WCODEC_THREADS is {text!r}, expected a number")
        threads = int(text) if text else n_processors()
        threads = min(threads, _core.MAX_THREADS)
    if not 1 <= threads <= _core.MAX_THREADS:
        raise ValueError(f"threads is {threads}, expected 1 to {_core.MAX_THREADS}")
    return threads


class Blocks(NamedTuple):
    """Encoded blocks: their headers, and their bytes in the file back to back.

    What is to be decoded has READ_SLACK_BYTES more in `data`, which kernels may read and nobody
    interprets.
    """

    headers: NDArray[np.void]
    data: Bytes


def aligned_empty(size: int) -> Bytes:
    """Memory to decode into, not initialised. The core writes large outputs past the caches where
    they are aligned to STREAMING_ALIGNMENT.
    """
    memory = np.empty(size + STREAMING_ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % STREAMING_ALIGNMENT
    return memory[start : start + size]


def bytes_file(size: int) -> io.BytesIO:
    """A file to write about `size` bytes to, in memory. When it is done, truncate() it; getvalue()
    then copies nothing.
    """
    # It takes over the bytes that nobody else has, so they are written to in their place.
    return io.BytesIO(_core.new_bytes(size))


def block_starts(headers: NDArray[np.void]) -> NDArray[np.uint64]:
    """Offset of each of these blocks when they lie back to back."""
    sizes = block_sizes(headers)
    return sizes.cumsum() - sizes


def encode_blocks(
    matrix: Bytes,
    unit_bytes: int,
    descriptors: NDArray[np.void],
    row_index: NDArray[np.uint32],
    *,
    family: int,
    form_set: int = 0,
    n_streams: int = 1,
    spatial: tuple[int, int, int, int] = (0, 0, 0, 0),
    rans32: tuple[int, bool] = (0, False),
    verify: bool,
    threads: int,
    outputs: Buffers | None = None,
) -> Blocks:
    """Encode blocks of a matrix as raw, constant or `family`: raw, rans16, rans32 or spatial, into
    memory taken from `outputs`, or new memory.

    rans16 takes the forms of `form_set`; rans32 its splits (bit k: without the lowest k of the
    highest 16 bits, 16 + k: nor the sign), the bits of an exponent (0: integers) and whether
    classes are tried; spatial its form, tile_log2 and the sets of predictors and transforms.
    """
    room = np.zeros(len(descriptors), dtype=BLOCK_HEADER)
    room["payload_bytes"] = descriptors["rows"].astype(np.uint64) * descriptors["cols"] * unit_bytes
    n_bytes = int(block_sizes(room).sum())
    data = np.empty(n_bytes, np.uint8) if outputs is None else outputs.take(n_bytes)
    headers = np.empty(len(descriptors), dtype=BLOCK_HEADER)
    size, failures = _core.encode_blocks(
        matrix,
        unit_bytes,
        descriptors,
        row_index,
        data,
        headers,
        family,
        form_set,
        n_streams,
        spatial,
        rans32,
        verify,
        threads,
    )
    if failures:
        raise WcodecError(f"encoding failed: a block, {_core.status_text(failures[0][1])}")
    return Blocks(headers, data[:size])


def decode_blocks(
    blocks: Blocks,
    family: int,
    descriptors: NDArray[np.void],
    row_index: NDArray[np.uint32],
    matrix: Bytes,
    unit_bytes: int,
    *,
    threads: int,
    layer: str,
    first_block: int = 0,
    numbers: NDArray[np.int64] | None = None,
) -> None:
    """Check blocks and decode them into a matrix.

    Raises CorruptError naming the block, by `numbers` or counted from first_block, and the layer.
    """

    def name_of(i: int) -> str:
        return block_name(first_block + i if numbers is None else int(numbers[i]), layer)

    placed = descriptors.copy()
    check_payload_sizes(blocks.headers, name_of)
    placed["data_offset"] = block_starts(blocks.headers)
    _decode(
        blocks.data, blocks.headers, family, placed, row_index, matrix, unit_bytes, threads, name_of
    )


def _decode(
    data: Bytes,
    headers: NDArray[np.void],
    family: int,
    placed: NDArray[np.void],
    row_index: NDArray[np.uint32],
    matrix: Bytes,
    unit_bytes: int,
    threads: int,
    name_of: Callable[[int], str],
) -> None:
    failures = _core.decode_blocks(
        data, headers, family, placed, row_index, matrix, unit_bytes, threads
    )
    if failures:
        block, status = failures[0]
        raise _failed(name_of(block), status)
    if family == LZ:
        for i in np.flatnonzero(headers["coding"] == LZ).tolist():
            _decode_lz(data, headers[i], placed[i], row_index, matrix, unit_bytes, name_of(i))


def _failed(where: str, status: int) -> CorruptError:
    return CorruptError(f"{where}: {_core.status_text(status)}")


class Part(NamedTuple):
    """All blocks of one layer among those of several: where their bytes begin in the data, and
    where the layer begins in the matrix.
    """

    headers: NDArray[np.void]
    data_offset: int
    matrix_offset: int
    layer: str


def decode_parts(
    parts: Sequence[Part],
    descriptors: NDArray[np.void],
    data: Bytes,
    family: int,
    matrix: Bytes,
    unit_bytes: int,
    *,
    threads: int,
) -> None:
    """Check the blocks of several layers of one family, without row groups, and decode them into
    one matrix, all in one call. `descriptors`, which are changed, place the blocks of all layers
    as in matrices of their own.

    Raises CorruptError naming block and layer.
    """
    counts = [len(part.headers) for part in parts]
    ends = np.array(counts).cumsum()
    headers = np.frombuffer(b"".join([part.headers.tobytes() for part in parts]), BLOCK_HEADER)

    def name_of(i: int) -> str:
        at = int(np.searchsorted(ends, i, side="right"))
        return block_name(i - int(ends[at]) + counts[at], parts[at].layer)

    check_payload_sizes(headers, name_of)
    starts = block_starts(headers)
    firsts = starts[ends - counts].tolist()
    offsets = [
        (part.data_offset - first, part.matrix_offset)
        for part, first in zip(parts, firsts, strict=True)
    ]
    data_moved, matrix_moved = np.array(offsets, np.int64).T.repeat(counts, axis=1)
    descriptors["data_offset"] = starts.astype(np.int64) + data_moved
    descriptors["matrix_offset"] += matrix_moved.view(np.uint64)
    _decode(data, headers, family, descriptors, NO_ROWS, matrix, unit_bytes, threads, name_of)


# ---- for a GPU ----

# core/gpu_descriptors.hpp: filled in by the core, read by kernels.
STREAM_DESCRIPTOR = np.dtype(f"V{_core.STREAM_DESCRIPTOR_BYTES}")
RANS32_DESCRIPTOR = np.dtype(
    {
        "names": ["parameters"],
        "formats": ["<u8"],
        "offsets": [_core.RANS32_PARAMETERS_OFFSET],
        "itemsize": _core.RANS32_DESCRIPTOR_BYTES,
    }
)
SPATIAL_DESCRIPTOR = np.dtype(
    {
        "names": ["parameters"],
        "formats": ["<u8"],
        "offsets": [_core.SPATIAL_PARAMETERS_OFFSET],
        "itemsize": _core.SPATIAL_DESCRIPTOR_BYTES,
    }
)
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
assert COPY_DESCRIPTOR.itemsize == _core.COPY_DESCRIPTOR_BYTES
NO_ROW = _core.NO_ROW
_BITS_WRONG = {  # after a stream that is right
    _core.STREAM_STATUS_RAW: _core.BAD_RAW_BITS,
    _core.STREAM_STATUS_PADDING: _core.PADDING_NOT_ZERO,
}
FORM_NAMES = {
    value: name.removeprefix("FORM_").lower()
    for name, value in vars(_core).items()
    if name.startswith("FORM_")
}
_OTHER_FORMS = {
    RANS32: ("sign coded", "sign raw"),
    SPATIAL: ("signed", "unsigned", "float"),
    LZ: ("plain", "shuffled"),
}


def form_name(coding: int, form: int) -> str:
    """The name of a form of a coding; empty where a coding has but one."""
    if coding == RANS16:
        return FORM_NAMES.get(form, str(form))
    names = _OTHER_FORMS.get(coding, ("",))
    return names[form] if form < len(names) else str(form)


class DeviceBlocks(NamedTuple):
    """What a GPU needs to decode some blocks: a descriptor for each stream of rans16, with its
    form, for each block of rans32 and of spatial, and for each raw or constant block; the numbers
    of the blocks of streams, rans32 and spatial; and the parameters of the latter two, from whose
    beginning their addresses count.
    """

    streams: NDArray[np.void]
    forms: NDArray[np.uint8]
    stream_numbers: NDArray[np.int64]
    rans32: NDArray[np.void]
    rans32_numbers: NDArray[np.int64]
    spatial: NDArray[np.void]
    spatial_numbers: NDArray[np.int64]
    parameters: Bytes
    copies: NDArray[np.void]


def device_room(headers: NDArray[np.void], descriptors: NDArray[np.void]) -> NDArray[np.int64]:
    """The most bytes that the descriptors and parameters of each block take."""
    rows, cols = (descriptors[name].astype(np.int64) for name in ("rows", "cols"))
    rans32 = rows + cols + _core.RANS32_PARAMETERS_BYTES + RANS32_DESCRIPTOR.itemsize
    tiles = -(-rows // MIN_TILE_SIZE) * -(-cols // MIN_TILE_SIZE)
    spatial = tiles + _core.SPATIAL_PARAMETERS_BYTES + SPATIAL_DESCRIPTOR.itemsize
    streams = headers["n_streams"].astype(np.int64) * STREAM_DESCRIPTOR.itemsize
    room = np.full(len(headers), COPY_DESCRIPTOR.itemsize, np.int64)
    for coding, size in ((RANS16, streams), (RANS32, rans32), (SPATIAL, spatial)):
        chosen = headers["coding"] == coding
        room[chosen] = size[chosen]
    return room


def describe_blocks(
    blocks: Blocks,
    family: int,
    descriptors: NDArray[np.void],
    matrix_bytes: int,
    unit_bytes: int,
    *,
    data_address: int,
    matrix_address: int,
    layer: str,
    numbers: NDArray[np.int64],
) -> DeviceBlocks:
    """Check raw, constant, rans16, rans32 and spatial blocks in all but their streams, for decoding
    on a GPU, where the bytes of `blocks` (at a multiple of 16) and the matrix have these addresses.

    Raises CorruptError naming the block, by `numbers`, and the layer.
    """
    check_payload_sizes(blocks.headers, lambda i: block_name(int(numbers[i]), layer))
    placed = descriptors.copy()
    placed["data_offset"] = block_starts(blocks.headers)
    coding = blocks.headers["coding"]
    n_streams = np.where(coding == RANS16, blocks.headers["n_streams"], 0).astype(np.int64)
    is_rans32, is_spatial = coding == RANS32, coding == SPATIAL
    is_copied = ~is_rans32 & ~is_spatial & (coding != RANS16)
    streams = np.zeros(int(n_streams.sum()), STREAM_DESCRIPTOR)
    rans32 = np.zeros(int(is_rans32.sum()), RANS32_DESCRIPTOR)
    spatial = np.zeros(int(is_spatial.sum()), SPATIAL_DESCRIPTOR)
    copies = np.zeros(int(is_copied.sum()), COPY_DESCRIPTOR)
    has_parameters = is_rans32 | is_spatial
    room = device_room(blocks.headers[has_parameters], descriptors[has_parameters]).sum()
    parameters = np.empty(int(room), np.uint8)
    parameter_bytes, failures = _core.describe_blocks(
        blocks.data,
        blocks.headers,
        family,
        placed,
        matrix_bytes,
        unit_bytes,
        data_address,
        matrix_address,
        streams,
        rans32,
        spatial,
        copies,
        parameters,
    )
    if failures:
        block, status = failures[0]
        raise _failed(block_name(int(numbers[block]), layer), status)
    return DeviceBlocks(
        streams,
        np.repeat(blocks.headers["form"], n_streams),
        np.repeat(numbers, n_streams),
        rans32,
        numbers[is_rans32],
        spatial,
        numbers[is_spatial],
        parameters[:parameter_bytes],
        copies,
    )


def stream_error(block: int, layer: str, status: int) -> CorruptError:
    """The error of a stream or block whose status a GPU has written, which is not 0."""
    where = block_name(block, layer)
    if status & _core.STREAM_STATUS_STATES:
        return _failed(where, _core.BAD_FINAL_STATE)
    return _failed(where, _BITS_WRONG.get(status, _core.STREAM_NOT_CONSUMED))


def check_payload_sizes(headers: NDArray[np.void], name_of: Callable[[int], str]) -> None:
    """Raise CorruptError if a block claims a payload that no block can have."""
    too_large = headers["payload_bytes"] > MAX_BLOCK_BYTES
    if np.count_nonzero(too_large):
        i = int(too_large.argmax())
        raise CorruptError(
            f"{name_of(i)}: payload is {headers['payload_bytes'][i]} bytes, "
            f"expected at most {MAX_BLOCK_BYTES}"
        )


def frame_block(coding: int, form: int, payload: bytes) -> Blocks:
    """One block whose payload was coded in Python."""
    header = np.zeros(1, dtype=BLOCK_HEADER)
    header["coding"] = coding
    header["form"] = form
    header["payload_bytes"] = len(payload)
    rest = payload + bytes(-len(payload) % BLOCK_ALIGNMENT)
    header["crc"] = _core.crc32(rest, _core.crc32(header.tobytes()[4:]))
    return Blocks(header, np.frombuffer(header.tobytes() + rest, dtype=np.uint8))


# ---- spatial ----


def sample_spatial(
    matrix: Bytes,
    unit_bytes: int,
    form: int,
    tile_log2: int,
    predictor_set: int,
    transform_set: int,
    n_tiles: int,
) -> tuple[int, int, int]:
    """Costs in bits / 256 of n_tiles tiles spread over a matrix (rows of bytes, changed by the
    call): without modelling, and with the one predictor or transform that is best for them; and
    how many units they are.
    """
    return _core.sample_spatial(
        matrix,
        matrix.shape[1] // unit_bytes,
        unit_bytes,
        form,
        tile_log2,
        predictor_set,
        transform_set,
        n_tiles,
    )


# ---- lz ----


def encode_lz(
    matrix: Bytes,
    unit_bytes: int,
    descriptors: NDArray[np.void],
    *,
    shuffle: bool,
    zstd_level: int,
    verify: bool,
) -> list[Blocks]:
    """Encode contiguous blocks as zstd frames, or as raw or constant where that is smaller."""
    parts = []
    for descriptor in descriptors:
        start = int(descriptor["matrix_offset"])
        units = matrix[
            start : start + int(descriptor["rows"]) * int(descriptor["cols"]) * unit_bytes
        ].copy()  # of what others may write to
        parts.append(_encode_lz_block(units, unit_bytes, shuffle, zstd_level, verify))
    return parts


def _encode_lz_block(
    units: Bytes, unit_bytes: int, shuffle: bool, zstd_level: int, verify: bool
) -> Blocks:
    if np.array_equal(units[unit_bytes:], units[:-unit_bytes]):
        return frame_block(CONSTANT, 0, units[:unit_bytes].tobytes())
    content = shuffle_bytes(units, unit_bytes) if shuffle else units
    payload = zstd_frame.compress(content.data, zstd_level)
    if len(payload) >= len(units):
        return frame_block(RAW, 0, units.tobytes())
    if verify and zstd_frame.decompress(payload, len(units), "a block") != content.tobytes():
        raise WcodecError("encoding failed: a block, decoding it again gave other data")
    return frame_block(LZ, int(shuffle), payload)


def _decode_lz(
    data: Bytes,
    header: np.void,
    descriptor: np.void,
    row_index: NDArray[np.uint32],
    matrix: Bytes,
    unit_bytes: int,
    where: str,
) -> None:
    payload_bytes = int(header["payload_bytes"])
    begin = int(descriptor["data_offset"]) + BLOCK_HEADER.itemsize
    rows, cols = int(descriptor["rows"]), int(descriptor["cols"])
    frame = data[begin : begin + payload_bytes]
    content = zstd_frame.decompress(frame.data, rows * cols * unit_bytes, where)
    units = np.frombuffer(content, dtype=np.uint8)
    if header["form"] == 1:
        units = units.reshape(unit_bytes, -1).T.reshape(-1)
    stride = int(descriptor["row_stride"])
    row_bytes = cols * unit_bytes
    start = int(descriptor["matrix_offset"])
    first = int(descriptor["row_index_first"])
    if first == NO_ROW_INDEX and (rows == 1 or stride == row_bytes):
        matrix[start : start + len(units)] = units
        return
    places = range(rows) if first == NO_ROW_INDEX else row_index[first : first + rows].tolist()
    for r, place in enumerate(places):
        at = start + place * stride
        matrix[at : at + row_bytes] = units[r * row_bytes : (r + 1) * row_bytes]


def shuffle_bytes(units: Bytes, unit_bytes: int) -> Bytes:
    """All first bytes of the units, then all second bytes ..."""
    return np.ascontiguousarray(units.reshape(-1, unit_bytes).T).reshape(-1)


# ---- row groups ----


def encode_row_groups(groups: NDArray[np.uint8], zstd_level: int) -> Blocks:
    """The map of a panel as a block: the group number of each row."""
    raw = groups.tobytes()
    payload = zstd_frame.compress(raw, zstd_level)
    if len(payload) >= len(raw):
        return frame_block(ROW_GROUPS, 0, raw)
    return frame_block(ROW_GROUPS, 1, payload)


def decode_row_groups(blocks: Blocks, n_rows: int, *, layer: str, first_block: int) -> Bytes:
    """The group numbers of a panel's rows, from the first of its blocks. Raises CorruptError."""
    where = block_name(first_block, layer)
    check_payload_sizes(blocks.headers[:1], lambda _: where)
    header = blocks.headers[0]
    if header["coding"] != ROW_GROUPS:
        raise CorruptError(f"{where}: its coding is {header['coding']}, expected a row-group map")
    descriptor = np.zeros(1, dtype=DESCRIPTOR)
    descriptor["rows"] = descriptor["cols"] = 1  # only checked, not decoded
    descriptor["row_index_first"] = NO_ROW_INDEX
    failures = _core.decode_blocks(
        blocks.data,
        blocks.headers[:1],
        ROW_GROUPS,
        descriptor,
        NO_ROWS,
        np.empty(1, np.uint8),
        1,
        1,
    )
    if failures:
        raise _failed(where, failures[0][1])
    begin = BLOCK_HEADER.itemsize
    payload = blocks.data[begin : begin + int(header["payload_bytes"])]
    if header["form"] == 1:
        payload = np.frombuffer(zstd_frame.decompress(payload.data, n_rows, where), dtype=np.uint8)
    if len(payload) != n_rows:
        raise CorruptError(f"{where}: maps {len(payload)} rows, expected {n_rows}")
    if n_rows and payload.max() >= MAX_ROW_GROUPS:
        raise CorruptError(f"{where}: a group number is {payload.max()}, expected at most 7")
    return payload
