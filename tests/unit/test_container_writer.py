# SPDX-License-Identifier: Apache-2.0
"""The writer gives the bytes of docs/format.md, to any target, and refuses misuse."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.container_builder import METADATA, Block, LayerSpec, build, sample_layers
from support.container_reading import read_both, read_random

from wcodec import _core
from wcodec.block_header import BLOCK_ALIGNMENT, BLOCK_HEADER
from wcodec.checksum import crc32
from wcodec.container import KIND_REFERENCE, LayerHead, Metadata, Reader, Writer, constants

META = Metadata("0.1.0", metadata={"language": "日本"}, duplicates=True)


def block_run(blocks):
    """Return the headers and the bytes of blocks, as the core gives them."""
    headers, data = b"", b""
    for block in blocks:
        rest = struct.pack("<4BQ", block.coding, block.form, block.n_streams, 0, len(block.payload))
        rest += block.payload + bytes(-len(block.payload) % 16)
        header = struct.pack("<I", crc32(rest)) + rest[:12]
        headers += header
        data += header + rest[12:]
    return np.frombuffer(headers, BLOCK_HEADER), np.frombuffer(data, np.uint8)


def head_of(spec: LayerSpec) -> LayerHead:
    n = int(np.prod(spec.shape))
    if spec.kind == KIND_REFERENCE:
        return LayerHead.reference(spec.name, spec.dtype, spec.shape, n, spec.target)
    unit_bytes = {"U8": 1, "BF16": 2, "F32": 4}[spec.dtype]
    grid = int(n > 0)
    rows = int(np.prod(spec.shape[: spec.row_axes])) if spec.row_axes else 1
    return LayerHead(
        spec.name, spec.dtype, spec.shape, n * unit_bytes, family=spec.family,
        unit_bytes=unit_bytes, row_axes=spec.row_axes, block_rows=grid, col_bands=grid,
        panel_rows=rows * grid,
    )  # fmt: skip


def write(file, specs, metadata=META):
    with Writer(file, metadata=metadata) as writer:
        for spec in specs:
            head = head_of(spec)
            if spec.kind == KIND_REFERENCE:
                writer.add_reference(head)
                continue
            writer.begin_layer(head)
            for block in spec.blocks:
                writer.write_blocks(*block_run([block]))
            writer.end_layer()
    return writer


def written(specs, metadata=META) -> bytes:
    file = io.BytesIO()
    write(file, specs, metadata)
    return file.getvalue()


def test_the_bytes_are_those_of_the_format():
    assert written(sample_layers()) == build().data


def test_an_empty_file():
    data = written([], Metadata("0.1.0"))
    assert len(data) % 64 == 0
    assert read_random(io.BytesIO(data)) == (Metadata("0.1.0"), [])
    assert data == build([], METADATA | {"metadata": {}, "duplicates": False}).data


def test_a_run_of_blocks_is_the_same_as_one_by_one():
    blocks = [Block(bytes([n]) * n) for n in range(1, 40)]
    spec = LayerSpec("a", blocks, shape=(sum(range(1, 40)),))
    file = io.BytesIO()
    with Writer(file, metadata=META) as writer:
        writer.begin_layer(head_of(spec))
        writer.write_blocks(*block_run(blocks[:7]))
        writer.write_blocks(*(part.tobytes() for part in block_run(blocks[7:])))
        writer.write_blocks(b"", b"")
        entry = writer.end_layer()
    assert file.getvalue() == written([spec])
    assert entry.n_blocks == 39
    assert writer.file_bytes == len(file.getvalue())
    assert Reader(file).layers["a"] == entry


def test_records_do_not_depend_on_what_is_before_them():
    a, b = sample_layers()[:2]
    data = written([a, b])
    other = written([LayerSpec("x", [Block(b"1")], shape=(1,)), b])
    entry, other_entry = (Reader(io.BytesIO(d)).layers["constant"] for d in (data, other))
    assert entry.record_offset != other_entry.record_offset
    assert entry.record_crc == other_entry.record_crc
    cut = slice(entry.record_offset, entry.record_end)
    assert data[cut] == other[other_entry.record_offset : other_entry.record_end]


class Slow(io.RawIOBase):
    """A raw file that takes a few bytes at a time."""

    def __init__(self, most):
        self.data = b""
        self._most = most

    def writable(self):
        return True

    def write(self, data):
        part = bytes(data[: self._most])
        self.data += part
        return len(part)


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_short_writes_are_continued(most):
    file = Slow(most)
    write(file, sample_layers())
    assert file.data == build().data


def test_a_target_may_return_nothing():
    class Target:
        parts = ()

        def write(self, data):
            self.parts += (bytes(data),)

    target = Target()
    write(target, sample_layers())
    assert b"".join(target.parts) == build().data


@pytest.mark.parametrize("returned", [None, 0, -1, 1 << 40])
def test_a_raw_file_that_takes_nothing_is_an_error(returned):
    class Full(io.RawIOBase):
        def write(self, data):
            return returned

    with pytest.raises(OSError, match="non-blocking" if returned is None else "returned"):
        Writer(Full(), metadata=META)


def test_after_a_failed_write_nothing_more_is_written():
    class Failing:
        calls = 0

        def write(self, data):
            self.calls += 1
            if self.calls == 3:
                raise OSError(28, "no space")

    file = Failing()
    writer = Writer(file, metadata=META)
    writer.begin_layer(head_of(sample_layers()[0]))
    with pytest.raises(OSError, match="no space"):
        writer.write_blocks(*block_run(sample_layers()[0].blocks))
    for call in (writer.close, writer.end_layer, lambda: writer.write_blocks(b"", b"")):
        with pytest.raises(ValueError, match="broken by a failed write"):
            call()
    assert file.calls == 3


def test_leaving_by_an_exception_writes_nothing_more():
    def interrupted(writer):
        with writer:
            writer.begin_layer(head_of(RAW))
            raise KeyboardInterrupt

    file = io.BytesIO()
    writer = Writer(file, metadata=META)
    with pytest.raises(KeyboardInterrupt):
        interrupted(writer)
    assert len(file.getvalue()) == writer.file_bytes
    with pytest.raises(ValueError, match="aborted"):
        writer.close()


def test_close_is_final_and_leaves_the_file_open():
    file = io.BytesIO()
    with Writer(file, metadata=META) as writer:
        writer.close()
    assert not file.closed
    for call in (writer.close, lambda: writer.begin_layer(head_of(sample_layers()[0]))):
        with pytest.raises(ValueError, match="closed"):
            call()


RAW, CONSTANT, AGAIN, EMPTY = sample_layers()


def begun(*, ended: bool = False) -> Writer:
    writer = Writer(io.BytesIO(), metadata=META)
    writer.begin_layer(head_of(RAW))
    if ended:
        writer.write_blocks(*block_run(RAW.blocks))
        writer.end_layer()
    return writer


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda: begun().begin_layer(head_of(CONSTANT)), "'raw' was not ended"),
        (lambda: begun().add_reference(head_of(AGAIN)), "'raw' was not ended"),
        (lambda: begun().close(), "'raw' was not ended"),
        (lambda: begun().end_layer(), "'raw' of 37 bytes has no blocks"),
        (lambda: begun(ended=True).end_layer(), "no layer was begun"),
        (lambda: begun(ended=True).write_blocks(b"", b""), "no layer was begun"),
        (lambda: begun(ended=True).begin_layer(head_of(RAW)), "'raw': is in the file already"),
        (lambda: begun(ended=True).begin_layer(head_of(AGAIN)), "kind is 1, expected 0"),
        (lambda: begun(ended=True).add_reference(head_of(CONSTANT)), "kind is 0, expected 1"),
        (
            lambda: begun(ended=True).add_reference(LayerHead.reference("r", "U8", (37,), 37, "x")),
            "refers to 'x', which is no earlier layer",
        ),
        (
            lambda: begun(ended=True).add_reference(LayerHead.reference("r", "U8", (3,), 3, "raw")),
            "has 3 bytes, yet refers to 'raw' with 37",
        ),
        (
            lambda: Writer(io.BytesIO(), metadata=Metadata("1")).add_reference(head_of(AGAIN)),
            "duplicates=True",
        ),
        (lambda: begun().write_blocks(bytes(15), b""), "buffer size"),
        (lambda: begun().write_blocks(*block_run([Block(b"")])), "block 0 of 'raw': has no payl"),
        (
            lambda: begun().write_blocks(block_run(RAW.blocks)[0], bytes(32)),
            "32 bytes, headers say 80",
        ),
        (
            lambda: begun().write_blocks(block_run(RAW.blocks)[0], bytes(80)),
            "block 0 of 'raw': header is not at its place",
        ),
        (
            lambda: begun().write_blocks(*block_run([Block(b"1", coding=255)])),
            "block 0 of 'raw': is a directory",
        ),
        (
            lambda: begun(ended=True).begin_layer(LayerHead("x", "F32", (2,), 7, unit_bytes=4)),
            "data_bytes is 7, F32",
        ),
        (
            lambda: begun(ended=True).begin_layer(
                LayerHead("x", "U8", (1,), 1, unit_bytes=1, block_rows=1 << 32, col_bands=1,
                          panel_rows=1)
            ),
            "a field does not fit",
        ),
        (
            lambda: begun(ended=True).begin_layer(LayerHead("\ud800", "U8", (0,), 0, unit_bytes=1)),
            "surrogates not allowed",
        ),
    ],
)  # fmt: skip
def test_misuse_is_a_value_error(misuse, message):
    with pytest.raises(ValueError, match=message):
        misuse()


def test_records_that_cannot_be_copied():
    data = build().data
    with Reader(io.BytesIO(data)) as reader:
        heads = {name: reader.open_layer(name).head for name in reader.layers}
        records = {name: b"".join(map(bytes, reader.read_record(name))) for name in reader.layers}
        entries = reader.layers

    def copy(writer, name, record=None):
        writer.copy_record(heads[name], entries[name], [record or records[name]])

    with pytest.raises(ValueError, match="'raw' was not ended"):
        copy(begun(), "constant")
    with pytest.raises(ValueError, match="'again': refers to 'raw', which is no earlier layer"):
        copy(Writer(io.BytesIO(), metadata=META), "again")
    writer = Writer(io.BytesIO(), metadata=Metadata("1"))
    copy(writer, "raw")
    with pytest.raises(ValueError, match="'again': is a reference, which needs metadata"):
        copy(writer, "again")
    with pytest.raises(ValueError, match="'constant': its record is not what its entry says"):
        copy(writer, "constant", bytes(len(records["constant"])))
    with pytest.raises(ValueError, match="broken by a wrong record"):
        writer.close()


def test_a_layer_without_bytes_takes_no_blocks():
    writer = Writer(io.BytesIO(), metadata=META)
    writer.begin_layer(head_of(EMPTY))
    with pytest.raises(ValueError, match="'empty' has no bytes, so it has no blocks"):
        writer.write_blocks(*block_run([Block(b"1")]))


def test_large_metadata_and_index_are_compressed_the_same_way_each_time():
    metadata = Metadata("0.1.0", source_header='{"x":1}' + " " * 10_000)
    specs = [LayerSpec(f"layer.{i}", [Block(b"1")], shape=(1,)) for i in range(100)]
    data = written(specs, metadata)
    assert data == written(specs, metadata)
    assert struct.unpack_from("<H", data, 6)[0] == 1
    index_offset, index_bytes = struct.unpack_from("<QQ", data, len(data) - 32)
    flags, stored_bytes, body_bytes, n_layers = struct.unpack_from("<IQQQ", data, index_offset + 4)
    assert flags == 1
    assert stored_bytes + 32 == index_bytes < 4096 < body_bytes
    assert n_layers == 100
    random, sequential = read_both(data, {spec.name: 1 for spec in specs})
    assert random == sequential
    assert random[0] == metadata


def test_metadata_just_below_1024_bytes_are_plain():
    def data(n):
        return written([], Metadata("0.1.0", model_name="x" * n))

    size = len(Metadata("0.1.0", model_name="").pack())
    assert struct.unpack_from("<HQ", data(1023 - size), 6) == (0, 1023)
    flags, stored = struct.unpack_from("<HQ", data(1024 - size), 6)
    assert flags == 1
    assert stored < 1024


@pytest.mark.parametrize(
    "metadata",
    [
        Metadata("1", options={"a": float("nan")}),
        Metadata("1", options={"a": object()}),
        Metadata("1", options={1: 0, "1": 0}),
        Metadata("1", metadata={"a": 1}),
        Metadata("1", metadata={1: "a"}),
        Metadata("1", model_name=3),
        Metadata("1", model_name="\ud800"),
    ],
)
def test_metadata_that_json_cannot_hold(metadata):
    with pytest.raises((ValueError, TypeError)):
        Writer(io.BytesIO(), metadata=metadata)


def test_numbers_that_the_core_knows_as_well():
    assert BLOCK_HEADER.itemsize == _core.BLOCK_HEADER_BYTES == constants.BLOCK_HEADER_BYTES
    assert BLOCK_ALIGNMENT == _core.BLOCK_ALIGNMENT
    assert constants.READ_SLACK_BYTES >= _core.READ_SLACK_BYTES
    names = ("RAW", "RANS16", "RANS32", "SPATIAL", "LZ")
    codings = {getattr(_core, f"CODING_{name}") for name in names}
    assert set(constants.FAMILIES) == codings
    assert constants.CODING_DIRECTORY not in {*codings, _core.CODING_CONSTANT}


PAYLOADS = st.lists(st.binary(min_size=1, max_size=70), min_size=1, max_size=5)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, PAYLOADS, max_size=6), st.data())
def test_what_is_written_is_read(layers, data):
    """In all three ways of reading, any references included."""
    specs = [
        LayerSpec(name, [Block(payload) for payload in payloads], shape=(len(payloads), 3))
        for name, payloads in layers.items()
    ]
    for name in data.draw(st.sets(NAMES.filter(lambda name: name not in layers), max_size=3)):
        if specs:
            target = data.draw(st.sampled_from(specs[: len(layers)]))
            specs.append(LayerSpec(name, shape=target.shape, kind=1, target=target.name))
    content = written(specs)
    assert content == build(specs).data
    random, sequential = read_both(content, {spec.name: len(spec.blocks) for spec in specs})
    assert random == sequential
    assert [head for head, _ in random[1]] == [head_of(spec) for spec in specs]
    for spec, (_, run) in zip(specs, random[1], strict=True):
        assert run == block_run(spec.blocks)[1].tobytes() if spec.blocks else not run
    scanned = Reader(io.BytesIO(content), scan=True)
    assert dict(scanned.layers) == dict(Reader(io.BytesIO(content)).layers)
    assert not scanned.skipped
