# SPDX-License-Identifier: Apache-2.0
"""Every byte of a block changed in ten ways, sealed again, for the smallest block of each coding
and form in the golden files: each backend refuses it by name or gives data, all the same data, and
writes nothing else. The emulated GPU decoder likewise.

What a right checksum then covers is wrong, so data may come out; what may not is a crash, a hang, a
write beside the block, or two answers.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from support.golden import GOLDEN, MANIFEST

from wcodec import _core
from wcodec.block_header import BLOCK_HEADER
from wcodec.codec import batch
from wcodec.container import Reader
from wcodec.errors import CorruptError
from wcodec.windows import grid_of

CANARY = 0xA5
GUARD = 128
HEADER_BYTES = BLOCK_HEADER.itemsize
# The CRC is computed again, and payload_bytes has to be the size of what is there.
KEPT = {*range(4), *range(8, 16)}


@dataclass(frozen=True)
class Sample:
    """A block of a golden file, as a matrix of its own."""

    data: bytes
    family: int
    rows: int
    cols: int
    unit_bytes: int

    @property
    def header(self) -> np.void:
        return np.frombuffer(self.data[:HEADER_BYTES], BLOCK_HEADER)[0]

    @property
    def name(self) -> str:
        header = self.header
        return f"{header['coding']}-{header['form']}-{self.unit_bytes}"


def samples() -> dict[str, Sample]:
    """The smallest block of each coding, form and unit size, by name."""
    found: dict[str, Sample] = {}
    for file in MANIFEST:
        with Reader(GOLDEN / file) as reader:
            for name, entry in reader.layers.items():
                if entry.is_reference or not entry.data_bytes:
                    continue
                for sample in blocks_of(reader.open_layer(name)):
                    other = found.get(sample.name)
                    if other is None or len(sample.data) < len(other.data):
                        found[sample.name] = sample
    return dict(sorted(found.items()))


def blocks_of(layer):
    head, grid = layer.head, grid_of(layer.head)
    blocks = layer.read_blocks(0, len(layer.headers))
    places = None if grid.row_groups else grid.all_blocks()
    panels = (window.rows for window in grid.windows(1) if grid.row_groups)
    for i, header in enumerate(layer.headers):
        start, end = int(layer.offsets[i]), int(layer.offsets[i + 1])
        data = blocks.data[start:end].tobytes()
        if header["coding"] == batch.ROW_GROUPS:
            yield Sample(data, batch.ROW_GROUPS, next(panels), 1, 1)
        elif places is not None:
            rows, cols = int(places["rows"][i]), int(places["cols"][i])
            yield Sample(data, head.family, rows, cols, grid.unit_bytes)


SAMPLES = samples()


def changes(data: bytes, step: int):
    """Copies of a block with one byte changed, sealed again."""
    padded = -(-len(data) // 16) * 16
    for at in range(4, padded, step):
        if at in KEPT:
            continue
        for value in {data[at] ^ 1 << bit for bit in range(8)} | {0, 0xFF}:
            if value == data[at]:
                continue
            changed = bytearray(data)
            changed[at] = value
            changed[:4] = zlib.crc32(changed[4:]).to_bytes(4, "little")
            yield bytes(changed)


def descriptor(sample: Sample) -> np.ndarray:
    found = np.zeros(1, batch.DESCRIPTOR)
    found["row_stride"] = sample.cols * sample.unit_bytes
    found["row_index_first"] = batch.NO_ROW_INDEX
    found["rows"], found["cols"] = sample.rows, sample.cols
    return found


def as_blocks(data: bytes) -> batch.Blocks:
    slack = bytes(batch.READ_SLACK_BYTES)
    headers = np.frombuffer(data[:HEADER_BYTES], BLOCK_HEADER)
    return batch.Blocks(headers, np.frombuffer(data + slack, np.uint8))


def decode(sample: Sample, data: bytes) -> bytes | str:
    """The units of a block, or what is wrong with it."""
    size = sample.rows * sample.cols * sample.unit_bytes
    memory = np.full(size + 2 * GUARD, CANARY, np.uint8)
    try:
        if sample.family == batch.ROW_GROUPS:
            return batch.decode_row_groups(
                as_blocks(data), sample.rows, layer="x", first_block=0
            ).tobytes()
        batch.decode_blocks(
            as_blocks(data),
            sample.family,
            descriptor(sample),
            batch.NO_ROWS,
            memory[GUARD : GUARD + size],
            sample.unit_bytes,
            threads=1,
            layer="x",
        )
    except CorruptError as error:
        return str(error)
    finally:
        assert (memory[:GUARD] == CANARY).all()
        assert (memory[GUARD + size :] == CANARY).all()
    return memory[GUARD : GUARD + size].tobytes()


def check_all_backends(sample: Sample, step: int) -> None:
    before = _core.backend()
    outcomes = {}
    mutants = list(changes(sample.data, step))
    try:
        for backend in _core.backends():
            _core.set_backend(backend)
            outcomes[backend] = [decode(sample, data) for data in mutants]
    finally:
        _core.set_backend(before)
    scalar = outcomes["scalar"]
    assert any(isinstance(outcome, str) for outcome in scalar)
    for backend, found in outcomes.items():
        for mutant, outcome, expected in zip(mutants, found, scalar, strict=True):
            if outcome != expected:
                differs = [
                    i for i, (a, b) in enumerate(zip(mutant, sample.data, strict=True)) if a != b
                ]
                pytest.fail(f"{backend}: byte {differs[-1]}: {outcome!r:.80}, {expected!r:.80}")


def test_there_is_a_sample_of_every_coding():
    codings = {int(sample.header["coding"]) for sample in SAMPLES.values()}
    assert codings >= {*batch.CODING_NAMES, batch.ROW_GROUPS}
    for sample in SAMPLES.values():
        assert isinstance(decode(sample, sample.data), bytes)


@pytest.mark.parametrize("name", SAMPLES)
def test_some_bytes(name):
    sample = SAMPLES[name]
    check_all_backends(sample, max(1, len(sample.data) // 150))


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_every_byte(name):
    check_all_backends(SAMPLES[name], 1)


@pytest.mark.parametrize(
    "name", [name for name, sample in SAMPLES.items() if sample.header["coding"] <= batch.RANS16]
)
def test_the_emulated_gpu(name):
    pytest.importorskip("torch")
    from support.emulated_warp import compiler

    if compiler() is None:
        pytest.skip("no C++20 compiler: set CXX")
    sample = SAMPLES[name]
    for data in changes(sample.data, max(1, len(sample.data) // 60)):
        expected = decode(sample, data)
        found = decode_emulated(sample, data)
        assert found == expected or (isinstance(found, str) and isinstance(expected, str))


def decode_emulated(sample: Sample, data: bytes) -> bytes | str:
    from support.emulated_device import EmulatedDevice

    device = EmulatedDevice()
    blocks = as_blocks(data)
    size = sample.rows * sample.cols * sample.unit_bytes
    stored, output = device.empty(len(blocks.data)), device.empty(size + 2 * GUARD)
    stored.numpy()[:] = blocks.data
    try:
        described = batch.describe_blocks(
            blocks,
            sample.family,
            descriptor(sample),
            size,
            sample.unit_bytes,
            data_address=stored.data_ptr(),
            matrix_address=output.data_ptr() + GUARD,
            layer="x",
            numbers=np.zeros(1, np.int64),
        )
    except CorruptError as error:
        return str(error)
    status = np.full(len(described.streams), 0xFFFFFFFF, np.uint32)
    if len(described.streams):
        kernel = f"wcodec_rans16_{batch.FORM_NAMES[int(described.forms[0])]}"
        addresses = (described.streams.ctypes.data, status.ctypes.data)
        device.launch(kernel, len(status), 32, *addresses)
    else:
        device.launch("wcodec_copy_blocks", 1, 256, described.copies.ctypes.data)
    found = device.download(output)
    assert (found[:GUARD] == CANARY).all()
    assert (found[GUARD + size :] == CANARY).all()
    return f"status {status}" if status.any() else found[GUARD : GUARD + size].tobytes()
