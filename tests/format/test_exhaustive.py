# SPDX-License-Identifier: Apache-2.0
"""Every byte, every bit and every prefix of one small block of each kind that the golden files
have, and of one small file of each family.

Sealed again, a changed block must be refused or decode to well-formed data, the same by every
backend, by the emulated GPU decoder and by the reference decoder, and nothing outside its place is
written. Not sealed again, every change of a file is found.
"""

import io
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from support.backends import BACKENDS
from support.emulated_blocks import describe
from support.emulated_warp import compiler
from support.golden import GOLDEN, MANIFEST
from support.golden_blocks import (
    HEADER_BYTES,
    Copies,
    GoldenBlock,
    batched,
    changes,
    golden_blocks,
    mutations,
    resized,
    sealable,
)
from support.pipes import Pipe
from support.tools import reference_decoder

import wcodec
from wcodec import _core
from wcodec.block_header import BLOCK_HEADER
from wcodec.codec import batch
from wcodec.container import Reader
from wcodec.editing import extract

BLOCKS = golden_blocks()
KINDS = [block.kind for block in BLOCKS]
IN_CORE = [block for block in BLOCKS if not block.kind.startswith(("lz", "map"))]
IN_PYTHON = [block for block in BLOCKS if block not in IN_CORE]


@pytest.fixture(autouse=True)
def keep_the_backend():
    old = _core.backend()
    yield
    _core.set_backend(old)


def by_kind(blocks: list[GoldenBlock]):
    return pytest.mark.parametrize("block", blocks, ids=[block.kind for block in blocks])


def thinned(every: int):
    """Every so many mutations by `make test`, all of them by `make test-full`."""
    return pytest.mark.parametrize(
        "stride", [every, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"]
    )


def reference_bytes(variant: bytes, block: GoldenBlock) -> bytes | None:
    """What the reference decoder makes of a block; None if it refuses it."""
    reference = reference_decoder()
    header = np.frombuffer(variant, BLOCK_HEADER, 1)[0]
    payload = memoryview(variant)[HEADER_BYTES:][: int(header["payload_bytes"])]
    numbers = (int(header[name]) for name in ("coding", "form", "n_streams"))
    try:
        reference.read_block(reference.Cursor(memoryview(variant), "block"), "block")
        parsed = reference.Block(variant[:HEADER_BYTES], *numbers, payload, "block")
        if block.is_map:
            return reference.decode_row_groups(parsed, block.rows).tobytes()
        return reference.decode_block(parsed, block.rows, block.cols, block.head).tobytes()
    except reference.BadFile:
        return None


def test_every_coding_is_attacked():
    codings = {kind.split("-")[0] for kind in KINDS}
    assert codings == {*batch.CODING_NAMES.values(), "map"}
    assert {int(k.split("-")[1]) for k in KINDS if k.startswith("rans16")} >= {1, 2, 4, 5, 6, 7, 8}


@thinned(23)
@by_kind(IN_CORE)
def test_changed_blocks_in_the_core(block, stride):
    if stride > 1:
        stride *= 1 + len(block.data) // 2048  # else time grows with the square of the size
    variants = chain(mutations(block, stride), resized(block, stride // 8 + 1))
    for some in batched(variants):
        copies = Copies(block, [block.data, *some])
        statuses, outputs = copies.decode("scalar")
        accepted = statuses == 0
        assert accepted[0], "the golden block itself"
        for backend in BACKENDS:
            found, decoded = copies.decode(backend)
            assert found.tolist() == statuses.tolist(), backend
            assert (decoded[accepted] == outputs[accepted]).all(), backend
        for i in np.linspace(1, len(some), 25).astype(int):
            expected = reference_bytes(some[i - 1], block)
            assert expected == (outputs[i].tobytes() if accepted[i] else None)


@pytest.mark.skipif(compiler() is None, reason="no C++20 compiler")
@thinned(301)
@by_kind(IN_CORE)
def test_changed_blocks_in_the_emulated_gpu_decoder(block, stride):
    for some in batched(chain(mutations(block, stride), resized(block, stride // 4 + 1))):
        copies = Copies(block, [block.data, *some])
        statuses, expected = copies.decode("scalar")
        memory = copies.outputs()
        described = describe(
            copies.data,
            copies.headers,
            copies.block.head.family,
            copies.descriptors,
            memory,
            copies.block.head.unit_bytes,
        )
        accepted = described.run()
        assert accepted[0]
        assert accepted.tolist() == (statuses == 0).tolist()
        assert (copies.collect(memory)[accepted] == expected[accepted]).all()


@thinned(4)
@by_kind(IN_PYTHON)
def test_changed_blocks_in_python(block, stride):
    for variant in chain([block.data], mutations(block, stride), resized(block, stride)):
        data = np.frombuffer(variant + bytes(batch.READ_SLACK_BYTES), np.uint8)
        blocks = batch.Blocks(np.frombuffer(variant, BLOCK_HEADER, 1), data)
        expected = reference_bytes(variant, block)
        if expected is None:
            with pytest.raises(wcodec.CorruptError, match="block 0 of 'x'"):
                decode_in_python(blocks, block)
        else:
            assert decode_in_python(blocks, block) == expected
        assert variant is not block.data or expected is not None


def decode_in_python(blocks: batch.Blocks, block: GoldenBlock) -> bytes:
    if block.is_map:
        return batch.decode_row_groups(blocks, block.rows, layer="x", first_block=0).tobytes()
    copies = Copies(block, [block.data])
    memory = copies.outputs()
    batch.decode_blocks(
        blocks,
        block.head.family,
        copies.descriptors,
        batch.NO_ROWS,
        memory,
        block.head.unit_bytes,
        threads=1,
        layer="x",
    )
    return copies.collect(memory).tobytes()


# ---- files ----


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[int, bytes]:
    """A file of the smallest layer of each family."""
    directory = tmp_path_factory.mktemp("files")
    smallest: dict[int, tuple[int, Path, str]] = {}
    for name in MANIFEST:
        with Reader(GOLDEN / name) as reader:
            for layer, entry in reader.layers.items():
                if entry.kind == 0 and entry.n_blocks:
                    candidate = (entry.record_bytes, GOLDEN / name, layer)
                    smallest[entry.family] = min(smallest.get(entry.family, candidate), candidate)
    for family, (_, path, layer) in smallest.items():
        extract(path, layer, directory / f"{family}.wcodec")
    return {family: (directory / f"{family}.wcodec").read_bytes() for family in smallest}


def decode_both(data: bytes) -> list[dict[str, bytes] | None]:
    """The layers of a file by random access and from a pipe; None where it is refused."""
    found: list[dict[str, bytes] | None] = []
    for source in (io.BytesIO(data), Pipe(data)):
        try:
            arrays = wcodec.decode_checkpoint(source)
        except wcodec.FormatError:
            found.append(None)
        else:
            found.append({name: array.tobytes() for name, array in arrays.items()})
    return found


FAMILIES = pytest.mark.parametrize(
    "family", sorted(set(batch.CODING_NAMES) - {batch.CONSTANT}), ids=batch.CODING_NAMES.get
)


@thinned(7)
@FAMILIES
def test_every_prefix_of_a_file_is_refused(files, family, stride):
    data = files[family]
    assert None not in decode_both(data)
    for n in range(0, len(data), stride):
        for source in (io.BytesIO(data[:n]), Pipe(data[:n])):
            with pytest.raises(wcodec.TruncatedError):
                wcodec.decode_checkpoint(source)


@thinned(79)
@FAMILIES
def test_every_changed_byte_of_a_file_is_found(files, family, stride):
    data = files[family]
    for at, value in changes(data, range(len(data)))[::stride]:
        assert decode_both(data[:at] + bytes([value]) + data[at + 1 :]) == [None, None], (at, value)


@thinned(11)
@FAMILIES
def test_every_changed_byte_around_the_payloads_sealed_again(files, family, stride):
    """Both readers refuse it, or both give the same well-formed layers."""
    file = sealable(files[family])
    begin = file.fields["payload"][0]
    end = begin + len(file.value("payload"))
    places = [at for at in range(len(file.data)) if not begin <= at < end]
    for at, value in changes(file.data, places)[::stride]:
        changed = file.data[:at] + bytes([value]) + file.data[at + 1 :]
        random, piped = decode_both(file.reseal(changed))
        assert random == piped, (at, value)
