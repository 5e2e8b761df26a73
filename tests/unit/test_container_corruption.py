# SPDX-License-Identifier: Apache-2.0
"""No damaged file is ever read as a whole one: every prefix, every byte, and every field with its
checksums made right again.
"""

import contextlib
import io
import json
import struct
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from support.container_builder import (
    METADATA,
    Block,
    Built,
    LayerSpec,
    build,
    hostile_values,
    sample_layers,
    sound_layers,
)
from support.container_reading import Pipe, Ranges, read_both, read_random, read_sequential

from wcodec.container import Reader, SequentialReader
from wcodec.errors import (
    CorruptError,
    FormatError,
    LimitError,
    TruncatedError,
    UnsupportedError,
)
from wcodec.limits import ReadLimits

SAMPLE = build()
COUNTS = {layer.name: len(layer.blocks) for layer in sample_layers()}
NESTED = build(
    [
        LayerSpec("CDCW", [Block(SAMPLE.data)], shape=(len(SAMPLE.data),)),
        LayerSpec("WIDX", [Block(b"CDCW")], shape=(4,)),
    ]
)
NESTED_COUNTS = {"CDCW": 1, "WIDX": 1}


def both(data: bytes, counts: dict[str, int] = COUNTS):
    return [
        lambda: read_random(io.BytesIO(data)),
        lambda: read_sequential(Pipe(data), counts),
    ]


def test_both_readers_agree_on_the_sample():
    random, sequential = read_both(SAMPLE.data, COUNTS)
    assert random == sequential
    assert [head.name for head, _ in random[1]] == ["raw", "constant", "again", "empty"]
    assert random[1][0][1].find(bytes(range(1, 22))) == 16


@pytest.mark.parametrize(
    ("built", "counts"), [(SAMPLE, COUNTS), (NESTED, NESTED_COUNTS)], ids=["sample", "nested"]
)
def test_every_prefix_is_truncated(built, counts):
    """Also where a prefix ends with the footer of a file that is stored in a layer."""
    read_both(built.data, counts)
    for size in range(len(built.data)):
        for read in both(built.data[:size], counts):
            with pytest.raises(TruncatedError):
                read()


def test_every_prefix_of_a_remote_file_is_truncated_within_few_requests():
    for size in range(len(NESTED.data)):
        source = Ranges(NESTED.data[:size])
        with pytest.raises(TruncatedError):
            Reader(source)
        assert len(source.requests) < 20


def test_every_changed_byte_is_found():
    for offset in range(len(SAMPLE.data)):
        for flip in (0x01, 0x80, 0xFF):
            data = bytearray(SAMPLE.data)
            data[offset] ^= flip
            for read in both(bytes(data)):
                with pytest.raises(FormatError):
                    read()


def test_check_file_finds_every_changed_byte_of_a_record():
    with Reader(io.BytesIO(SAMPLE.data)) as reader:
        begin, end = reader.layers["raw"].record_offset, reader.layers["empty"].record_end
    for offset in range(begin, end):
        data = bytearray(SAMPLE.data)
        data[offset] ^= 4
        reader = Reader(io.BytesIO(data))
        name = next(n for n, e in reader.layers.items() if offset < e.record_end)
        with pytest.raises(CorruptError, match=f"layer '{name}': record: CRC is"):
            reader.check_file()


# What a container does not know: it is the codec that checks these against the block grid.
FREE = {
    f"{layer.name}/{field}"
    for layer in sample_layers()
    for field in ("head.block_rows", "head.col_bands", "head.panel_rows")
    if layer.kind == 0
} | {
    f"{layer.name}/block{i}.{field}"
    for layer in sample_layers()
    for i in range(len(layer.blocks))
    for field in ("form", "n_streams")
}
# Flipping bits of these gives a file that is legal as well.
LEGAL_VALUES = {"raw/head.row_axes": {1}, "constant/head.row_axes": {0, 2}}
LEGAL_VALUES |= {"empty/head.row_axes": {1, 2}}
LEGAL_VALUES |= {f"{layer.name}/head.flags": {1} for layer in sample_layers() if layer.kind == 0}


@pytest.mark.parametrize("name", SAMPLE.fields)
def test_every_field_resealed_is_checked(name):
    """The checks behind the checksums: no value of a field but its own is accepted."""
    for value in hostile_values(SAMPLE, name):
        data = SAMPLE.with_field(name, value)
        for read in both(data):
            if name in FREE or value in LEGAL_VALUES.get(name, ()):
                continue
            with pytest.raises(FormatError):
                read()


def test_every_byte_resealed_raises_named_errors_only():
    """Bytes without a field of their own: shapes, names, padding, metadata, payloads."""
    for offset in range(len(SAMPLE.data)):
        flip = (0x01, 0x10, 0x80)[offset % 3]
        data = SAMPLE.with_byte(offset, SAMPLE.data[offset] ^ flip)
        for read in both(data):
            with contextlib.suppress(FormatError):
                read()


def regions(built: Built) -> dict[str, int]:
    """Return the offset of a padding byte of each kind."""
    head = built.fields["raw/head.magic"][0]
    size = built.value("raw/head.head_bytes")
    directory = built.fields["raw/directory.crc"][0]
    return {
        "after the metadata": head - 1,
        "after the head": head + size,
        "after a payload": built.fields["raw/block1.crc"][0] - 1,
        "after the directory": directory + 48,
        "after a reference": built.fields["empty/head.magic"][0] - 1,
    }


@pytest.mark.parametrize("where", regions(SAMPLE))
def test_padding_is_zero(where):
    offset = regions(SAMPLE)[where]
    assert SAMPLE.data[offset] == 0
    for read in both(SAMPLE.with_byte(offset, 1)):
        with pytest.raises(CorruptError, match="padding is not zero"):
            read()


def test_bytes_after_the_footer_are_refused():
    for tail in (b"\0", b"CDCW", SAMPLE.data, bytes(5000)):
        for read in both(SAMPLE.data + tail):
            with pytest.raises(CorruptError, match="after the footer"):
                read()


def test_a_damaged_footer_is_corrupt_and_not_truncated():
    for name in ("index_offset", "index_bytes", "index_crc", "file_crc", "footer_crc", "magic"):
        offset, _ = SAMPLE.fields[f"footer.{name}"]
        data = bytearray(SAMPLE.data)
        data[offset] ^= 1
        with pytest.raises(CorruptError):
            read_random(io.BytesIO(data))


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("header.magic", b"WCDX", CorruptError, "not a wcodec file: starts with b'WCDX'"),
        ("header.minor", 1, UnsupportedError, "format version 0.1, this wcodec reads 0.9"),
        ("header.minor", 10, UnsupportedError, "format version 0.10, this wcodec reads 0.9"),
        ("header.major", 1, UnsupportedError, "format version 1.9"),
        ("header.flags", 2, CorruptError, "header: flags are 0x2"),
        ("header.metadata_bytes", 5, CorruptError, "header: metadata is 5 bytes"),
        ("header.header_crc", 1, CorruptError, "header: CRC is 0x"),
        ("header.metadata_crc", 1, CorruptError, "metadata: CRC is 0x"),
        ("raw/head.family", 6, UnsupportedError, "family delta is reserved"),
        ("raw/head.family", 9, CorruptError, "family is 9, known are"),
        ("raw/head.reserved", b"\0\1\0\0\0\0", CorruptError, "reserved bits"),
        ("again/head.panel_rows", 2, CorruptError, "panel_rows is 2 in a reference, expected 0"),
        ("raw/head.unit_bytes", 2, CorruptError, "unit_bytes is 2, expected a divisor of 1"),
        ("raw/head.data_bytes", 38, CorruptError, r"data_bytes is 38, U8 of shape \[37\]"),
        ("raw/head.head_bytes", 70, CorruptError, "head_bytes is 70, its fields need 73"),
        ("raw/block0.reserved", 1, CorruptError, "block 0 of 'raw'"),
        ("raw/block1.payload_bytes", 15, CorruptError, "block 1 of 'raw'"),
        ("raw/directory.coding", 7, CorruptError, "'raw'"),
        ("again/head.family", 2, CorruptError, "family is 2 in a reference"),
        ("footer.index_crc", 1, CorruptError, "index: CRC is 0x"),
        ("footer.file_crc", 1, CorruptError, "file: CRC is 0x"),
        ("index.n_layers", 3, CorruptError, "index: "),
    ],
)
def test_messages_say_what_is_wrong(name, value, error, message):
    for read in both(SAMPLE.with_field(name, value)):
        with pytest.raises(error, match=message):
            read()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("record_offset", 64, "entry 1: record_offset is 64, expected"),
        ("record_bytes", 100, "entry 1: record_bytes is 100, expected 192"),
        ("record_bytes", 2**63, "entry 1: record_bytes is 9223372036854775808, expected 192"),
        ("directory_offset", 88, "entry 1: directory_offset is 88, expected a multiple of 16"),
        ("directory_offset", 2**64 - 16, "entry 1: record_bytes is 192, expected 1844674407370955"),
        ("data_bytes", 20, "layer 'constant': data_bytes is 20, its elements have 192 bits"),
        ("n_blocks", 0, "entry 1: n_blocks is 0"),
        ("n_blocks", 100, "entry 1: directory_offset is .*, expected"),
        ("kind", 2, "entry 1: kind is 2, expected 0 or 1"),
        ("family", 6, "entry 1: family is 6"),
        ("unit_bytes", 8, "layer 'constant': unit_bytes is 8, expected a divisor of 4"),
        ("unit_bytes", 0, "layer 'constant': unit_bytes is 0, expected a divisor of 4"),
        ("reserved", 1, "entry 1: the reserved byte is 1, expected 0"),
        ("name_bytes", 2**32 - 1, "index: 4 entries do not fit its 315 bytes"),
        ("dtype_bytes", 0, "index: "),
    ],
)
def test_index_messages_say_what_is_wrong(name, value, message):
    data = SAMPLE.with_field(f"index/constant.{name}", value)
    with pytest.raises(CorruptError, match=message):
        Reader(io.BytesIO(data))


def test_a_reference_with_a_record_too_long_for_it():
    again, empty = "index/again.record_bytes", "index/empty.record_bytes"
    begin = "index/empty.record_offset"
    data = SAMPLE.with_fields(
        {
            again: SAMPLE.value(again) + 64,
            begin: SAMPLE.value(begin) + 64,
            empty: SAMPLE.value(empty) - 64,
        }
    )
    with pytest.raises(CorruptError, match="entry 2: record_bytes is"):
        Reader(io.BytesIO(data))


@pytest.mark.parametrize("unit_bytes", [1, 2])
def test_units_are_a_part_of_an_element_in_both_head_and_index(unit_bytes):
    in_head = {"constant/head.unit_bytes": unit_bytes}
    for read in both(SAMPLE.with_fields(in_head)):
        with pytest.raises(CorruptError, match="unit_bytes"):
            read()
    everywhere = in_head | {"index/constant.unit_bytes": unit_bytes}
    for read in both(SAMPLE.with_fields(everywhere)):
        read()


def test_sizes_that_header_and_footer_declare_are_checked_against_the_file():
    sizes = {"header.metadata_stored_bytes": 1 << 20, "header.metadata_bytes": 1 << 20}
    data = SAMPLE.with_fields(sizes)
    with pytest.raises(CorruptError, match="header: metadata of 1048576 bytes ends behind"):
        Reader(io.BytesIO(data))
    with pytest.raises(TruncatedError, match="the stream ends at"):
        list(SequentialReader(Pipe(data)))
    with pytest.raises(TruncatedError, match="in the metadata"):
        _ = Reader(io.BytesIO(data), scan=True).metadata

    body_bytes = SAMPLE.value("index.body_bytes")
    sizes = {"index.stored_bytes": body_bytes - 1, "index.body_bytes": body_bytes - 1}
    with pytest.raises(CorruptError, match=f"stored in {body_bytes - 1} bytes, footer says"):
        Reader(io.BytesIO(SAMPLE.with_fields(sizes)))


def test_an_index_too_short_for_its_head():
    """31 bytes where the index should be, with all CRCs right."""
    empty = build([])
    index = empty.value("footer.index_offset")
    data = bytearray(empty.data[: index + 31] + empty.data[index + 32 :])
    footer = len(data) - 32
    struct.pack_into("<Q", data, footer + 8, 31)
    for offset, begin, end in (
        (footer + 16, index, footer),
        (footer + 20, 0, footer),
        (footer + 24, footer, footer + 24),
    ):
        struct.pack_into("<I", data, offset, zlib.crc32(data[begin:end]))
    with pytest.raises(CorruptError, match="index: 31 bytes, its head has 32"):
        Reader(io.BytesIO(data))


@pytest.mark.parametrize("name", ["ab", "b"])
def test_a_record_of_another_name_than_in_the_index(name):
    """Of the same size and of another one; both records are sound."""
    one = build([LayerSpec("a", [Block(b"1")], shape=(1,))])
    other = build([LayerSpec(name, [Block(b"1")], shape=(1,))])
    begin, end = one.fields["a/head.magic"][0], one.value("footer.index_offset")
    data = one.reseal(one.data[:begin] + other.data[begin:end] + one.data[end:])
    if name == "ab":
        # The seals of `one` are at other places than those of the longer head.
        data = bytearray(data)
        data[begin:end] = other.data[begin:end]
    reader = Reader(io.BytesIO(data))
    with pytest.raises(CorruptError, match=r"layer 'a': (head is 72 bytes|name of the record is)"):
        reader.open_layer("a")


def frame(content: bytes, **options) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(content)


def wide_frame(content: bytes) -> bytes:
    """A frame that asks for a window of 128 MiB: flags, window, size, then one raw block."""
    last_raw = (1 | len(content) << 3).to_bytes(3, "little")
    size = len(content).to_bytes(4, "little")
    return b"\x28\xb5\x2f\xfd\x80" + bytes([17 << 3]) + size + last_raw + content


JSON = json.dumps(METADATA).encode()


@pytest.mark.parametrize(
    ("stored", "size", "message"),
    [
        (frame(JSON)[:-1], len(JSON), "does not decode"),
        (frame(JSON) + b"x", len(JSON), "does not decode: .*unused data"),
        (frame(JSON) + frame(b"x"), len(JSON), "does not decode: .*unused data"),
        (frame(JSON, write_content_size=False), len(JSON), "does not state its content size"),
        (frame(JSON), len(JSON) + 1, f"holds {len(JSON)} bytes, expected {len(JSON) + 1}"),
        (frame(JSON[:-1] + b"x"), len(JSON), "not valid JSON"),
        (JSON, len(JSON), "starts with 7b"),
        (b"", 0, "starts with , a zstd"),
        (frame(b""), 0, "zstd frame without content"),
        (b"\x28\xb5\x2f\xfd", 4, "zstd frame"),
        (wide_frame(JSON), len(JSON), "window of 134217728 bytes"),
        (b"\x50\x2a\x4d\x18\4\0\0\0abcd", 4, "starts with 502a4d18"),
    ],
)
def test_metadata_in_a_frame_that_is_not_as_it_should_be(stored, size, message):
    data = build([], stored).with_fields({"header.flags": 1, "header.metadata_bytes": size})
    for read in both(data, {}):
        with pytest.raises(CorruptError, match=f"metadata: .*{message}"):
            read()


def test_a_frame_that_is_as_it_should_be():
    data = build([], frame(JSON)).with_fields(
        {"header.flags": 1, "header.metadata_bytes": len(JSON)}
    )
    for read in both(data, {}):
        assert read()[0].metadata == METADATA["metadata"]


def with_layers(*layers: LayerSpec, **metadata: object) -> list:
    data = build(layers, METADATA | metadata).data
    counts = {layer.name: len(layer.blocks) for layer in layers}
    return both(data, counts)


ONE = LayerSpec("one", [Block(b"12")], shape=(2,))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([ONE, ONE], "'one'"),
        ([ONE, LayerSpec("r", kind=1, target="two", shape=(2,))], "'two', which is no earlier"),
        ([LayerSpec("r", kind=1, target="one", shape=(2,)), ONE], "'one', which is no earlier"),
        ([LayerSpec("r", kind=1, target="r", shape=(2,))], "'r', which is no earlier"),
        (
            [
                ONE,
                LayerSpec("r", kind=1, target="one", shape=(2,)),
                LayerSpec("s", kind=1, target="r", shape=(2,)),
            ],
            "'r', which is a reference",
        ),
        ([ONE, LayerSpec("r", kind=1, target="one", shape=(3,))], "3 bytes, yet refers to 'one'"),
        ([LayerSpec("x", [Block(b"12")], shape=(2,), target="one")], "target"),
        ([LayerSpec("x", shape=(2,))], "x|entry 0"),
        ([LayerSpec("x", [Block(b"1")], shape=(0,))], "x|entry 0"),
        ([LayerSpec("x", [Block(b"")], shape=(2,))], "x|entry 0|block 0"),
        ([LayerSpec("x", [Block(b"1", coding=255)], shape=(2,))], "'x'"),
        ([LayerSpec("x", [Block(b"1")], dtype="", shape=(2,))], "dtype"),
        ([LayerSpec("x", [Block(b"1")], dtype="X" * 256, shape=(2,))], "dtype"),
        ([LayerSpec("x", [Block(b"1")], dtype="F4", shape=(3,), data_bytes=2)], "12 bits"),
        ([LayerSpec("x", [Block(b"1")], dtype="Q", shape=(2**63, 2), data_bytes=1)], "overflows"),
        ([LayerSpec("x", [Block(b"1")], dtype="Q", shape=(2,), row_axes=1)], "row_axes is 1"),
        ([LayerSpec("x", [Block(b"1")], shape=(2,), row_axes=2)], "row_axes is 2"),
        ([LayerSpec("x", shape=(2**63, 2, 0))], "overflows 64 bits"),
    ],
)
def test_layers_that_break_a_rule(layers, message):
    for read in with_layers(*layers):
        with pytest.raises(CorruptError, match=message):
            read()


def test_references_need_the_metadata_to_allow_them():
    for read in with_layers(
        ONE, LayerSpec("r", kind=1, target="one", shape=(2,)), duplicates=False
    ):
        with pytest.raises(CorruptError, match="the metadata allows no"):
            read()


def test_a_name_that_is_not_utf8_is_refused():
    offset = SAMPLE.data.index(b"raw")
    for read in both(SAMPLE.with_byte(offset, 0xFF)):
        with pytest.raises(FormatError):
            read()
    in_index = SAMPLE.data.rindex(b"raw", 0, SAMPLE.data.index(b"constant", offset + 400))
    data = SAMPLE.with_byte(in_index, 0xFF)
    with pytest.raises(FormatError):
        Reader(io.BytesIO(data))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (b"[]", "is list, expected an object"),
        (b"null", "is NoneType"),
        (b"{}", "keys missing or unknown: duplicates, metadata"),
        (b'{"a":1', "not valid JSON"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b'{"a":1,"a":2}', "key 'a' occurs twice"),
        (b"[" * 100_000, "nested too deeply|not valid JSON"),
    ],
)
def test_metadata_that_is_no_metadata(metadata, message):
    for read in both(build([], metadata).data):
        with pytest.raises(CorruptError, match=f"metadata: .*({message})"):
            read()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wcodec_version": 1}, "'wcodec_version' is int, expected str"),
        ({"model_name": 1}, "'model_name' is int"),
        ({"options": []}, "'options' is list"),
        ({"metadata": {"a": 1}}, "maps 'a' to 1, expected text"),
        ({"metadata": None}, "'metadata' is NoneType"),
        ({"duplicates": 1}, "'duplicates' is int"),
        ({"source": 1}, "'source': is int"),
        ({"source": {"format": "safetensors"}}, "'source': keys missing or unknown: header"),
        ({"source": {"format": "safetensors", "header": 1}}, "'header' is int"),
        ({"source": {"format": 1, "header": "{}"}}, "'format' is int"),
        ({"extra": 1}, "keys missing or unknown: extra"),
    ],
)
def test_metadata_of_a_wrong_shape(change, message):
    for read in both(build([], METADATA | change).data, {}):
        with pytest.raises(CorruptError, match=message):
            read()


def test_a_source_of_another_format_is_unsupported():
    source = {"format": "gguf", "header": "{}"}
    for read in both(build([], METADATA | {"source": source}).data, {}):
        with pytest.raises(UnsupportedError, match="'gguf'"):
            read()


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        (ReadLimits(metadata_bytes=10), "metadata_bytes"),
        (ReadLimits(index_bytes=100), "index_bytes"),
        (ReadLimits(n_layers=3), "n_layers"),
        (ReadLimits(name_bytes=7), "name_bytes"),
        (ReadLimits(rank=1), "rank"),
        (ReadLimits(layer_bytes=36), "layer_bytes"),
        (ReadLimits(n_blocks=1), "n_blocks"),
        (ReadLimits(block_bytes=20), "block_bytes"),
        (ReadLimits(total_bytes=97), "total_bytes"),
        (ReadLimits(expansion=0, expansion_free_bytes=97), "expansion"),
    ],
)
def test_limits_name_themselves(limits, field):
    assert sum(head.data_bytes for head, _ in read_random(io.BytesIO(SAMPLE.data))[1]) == 98
    for read in (
        lambda: read_random(io.BytesIO(SAMPLE.data), limits=limits),
        lambda: read_sequential(Pipe(SAMPLE.data), COUNTS, limits=limits),
    ):
        with pytest.raises(LimitError, match=rf"read with limits=ReadLimits\({field}="):
            read()


def test_the_total_of_stored_layers_from_a_pipe():
    data = build(sound_layers()).data
    with pytest.raises(LimitError, match="total_bytes"):
        list(SequentialReader(Pipe(data), limits=ReadLimits(total_bytes=60)))
    assert list(SequentialReader(Pipe(data), limits=ReadLimits(total_bytes=61)))


def test_a_limit_raised_as_the_message_says_is_enough():
    found = ReadLimits(rank=2, name_bytes=8, n_blocks=2, block_bytes=21, total_bytes=98)
    read_random(io.BytesIO(SAMPLE.data), limits=found)
    read_sequential(Pipe(SAMPLE.data), COUNTS, limits=found)


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(SAMPLE.data) - 1), st.integers(0, 255)), min_size=1, max_size=6
    )
)
def test_random_changes_resealed_raise_named_errors_only(changes):
    data = bytearray(SAMPLE.data)
    for offset, value in changes:
        data[offset] = value
    for read in both(SAMPLE.reseal(data)):
        with contextlib.suppress(FormatError):
            read()


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300), start=st.sampled_from([0, 4, 6, 32, 64, 200, 1000]))
def test_random_bytes_raise_named_errors_only(data, start):
    for read in both(SAMPLE.data[:start] + data):
        with contextlib.suppress(FormatError):
            read()
        with contextlib.suppress(FormatError):
            Reader(io.BytesIO(data), scan=True)
