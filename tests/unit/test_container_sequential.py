# SPDX-License-Identifier: Apache-2.0
"""Streams: short reads, skipped layers, and memory that grows only as bytes arrive."""

import io
import os
import threading
import tracemalloc

import numpy as np
import pytest
from support.container_builder import METADATA, Block, LayerSpec, build, sample_layers
from support.container_reading import Pipe, checked_bytes, read_random, read_sequential

from wcodec.container import SequentialReader
from wcodec.container.sequential import PIECE_BYTES
from wcodec.errors import CorruptError, LimitError, TruncatedError, UnsupportedError
from wcodec.limits import ReadLimits

SAMPLE = build()
COUNTS = {layer.name: len(layer.blocks) for layer in sample_layers()}


def blocks_of(sizes):
    return [Block(np.random.default_rng(n).bytes(n)) for n in sizes]


@pytest.mark.parametrize("most", [1, 3, 16, 1000])
def test_short_reads(most):
    expected = read_random(io.BytesIO(SAMPLE.data))
    assert read_sequential(Pipe(SAMPLE.data, most), COUNTS) == expected


def test_streams_with_readinto():
    expected = read_random(io.BytesIO(SAMPLE.data))
    assert read_sequential(io.BytesIO(SAMPLE.data), COUNTS) == expected


def test_a_real_pipe():
    layers = [LayerSpec("a", blocks_of(range(1, 60_000, 4000)), shape=(450_015,))]
    data = build(layers).data
    expected = read_random(io.BytesIO(data))
    for buffering in (0, -1):
        read_end, write_end = os.pipe()

        def feed(write_end=write_end):
            with os.fdopen(write_end, "wb") as file:
                file.write(data)

        thread = threading.Thread(target=feed)
        thread.start()
        with os.fdopen(read_end, "rb", buffering=buffering) as stream:
            assert read_sequential(stream, {"a": 15}) == expected
        thread.join()


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_small_pieces(monkeypatch, piece):
    monkeypatch.setattr("wcodec.container.sequential.PIECE_BYTES", piece)
    expected = read_random(io.BytesIO(SAMPLE.data))
    assert read_sequential(Pipe(SAMPLE.data), COUNTS) == expected
    for size in range(len(SAMPLE.data)):
        with pytest.raises(TruncatedError):
            read_sequential(Pipe(SAMPLE.data[:size]), COUNTS)


def test_metadata_come_before_the_layers():
    reader = SequentialReader(Pipe(SAMPLE.data))
    assert reader.metadata.metadata == METADATA["metadata"]
    assert reader.format_version == "0.9"
    assert reader.file_bytes == SAMPLE.fields["raw/head.magic"][0]
    layer = next(reader)
    assert layer.head.name == "raw"
    # Nothing beyond the head and its padding has been asked for.
    assert reader.file_bytes == SAMPLE.fields["raw/block0.crc"][0]
    layer.take(1)
    assert reader.file_bytes == SAMPLE.fields["raw/block1.crc"][0]


def test_layers_are_skipped_as_a_whole_or_in_part():
    for taken in range(3):
        reader = SequentialReader(Pipe(SAMPLE.data, 50))
        names = []
        for layer in reader:
            names.append(layer.head.name)
            if layer.head.name == "raw":
                layer.take(taken)
        assert names == list(COUNTS)
        assert list(reader) == []
        assert reader.file_bytes == len(SAMPLE.data)


def test_a_skipped_layer_is_checked_all_the_same():
    for offset in range(SAMPLE.fields["raw/head.magic"][0], len(SAMPLE.data)):
        data = bytearray(SAMPLE.data)
        data[offset] ^= 1
        with pytest.raises((CorruptError, TruncatedError, LimitError)):
            list(SequentialReader(Pipe(bytes(data))))


def test_blocks_in_several_takes_have_slack_each():
    sizes = [10, 100_000, 16, 3_000_000, 1]
    data = build([LayerSpec("a", blocks_of(sizes), shape=(sum(sizes),))]).data
    ((_, expected),) = read_random(io.BytesIO(data))[1]
    for counts in ([5], [1, 1, 1, 1, 1], [2, 0, 3]):
        reader = SequentialReader(Pipe(data, 70_000))
        layer = next(reader)
        parts = [layer.take(count) for count in counts]
        layer.finish()
        assert b"".join(checked_bytes(part, "a") for part in parts) == expected
        assert next(reader, None) is None


@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_blocks_must_be_what_the_caller_expects(count):
    reader = SequentialReader(Pipe(SAMPLE.data))
    layer = next(reader)

    def read():
        layer.take(count)
        layer.finish()

    with pytest.raises(
        CorruptError, match=r"'raw': has (more blocks than 1|2 blocks, expected at l)"
    ):
        read()


def test_a_finished_layer_and_a_reference_have_no_blocks():
    reader = SequentialReader(Pipe(SAMPLE.data))
    layer = next(reader)
    layer.take(2)
    layer.finish()
    for call in (layer.finish, lambda: layer.take(1)):
        with pytest.raises(ValueError, match="'raw' was read to its end"):
            call()
    layer.skip()
    next(reader)
    reference = next(reader)
    assert reference.head.target == "raw"
    with pytest.raises(ValueError, match="'again' is a reference"):
        reference.take(1)


def test_the_index_must_say_what_the_records_said():
    """A right index of other records, and a right footer of another index."""
    other = build([LayerSpec("raw", [Block(b"x" * 37)], shape=(37,)), *sample_layers()[1:]])
    begin = SAMPLE.value("footer.index_offset")
    data = bytearray(SAMPLE.data[:begin] + other.data[other.value("footer.index_offset") :])
    assert len(data) == len(SAMPLE.data)
    with pytest.raises(CorruptError, match="index: "):
        list(SequentialReader(Pipe(SAMPLE.reseal(data))))


class Endless:
    """A stream that never ends, of zero bytes after what it was given."""

    def __init__(self, data):
        self._data = data

    def read(self, n):
        part, self._data = self._data[:n], self._data[n:]
        return part or bytes(n)


def claim(field, value):
    """Return a stream that ends right after a size that is a lie."""
    data = SAMPLE.with_field(field, value)
    return data[: SAMPLE.fields[field][0] + 8]


@pytest.mark.parametrize(
    ("field", "value"),
    [("raw/block0.payload_bytes", 255 << 20), ("index.stored_bytes", 255 << 20)],
)
def test_a_claimed_size_takes_no_memory(field, value):
    data = claim(field, value)
    if field == "index.stored_bytes":
        data = data[:-8] + value.to_bytes(8, "little") * 2 + data[-8:]
        data = data[: SAMPLE.fields[field][0] + 16] + (4).to_bytes(8, "little")
    tracemalloc.start()
    with pytest.raises((TruncatedError, CorruptError)):
        list(SequentialReader(Pipe(data)))
    with pytest.raises((TruncatedError, CorruptError)):
        read_sequential(Pipe(data), COUNTS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * PIECE_BYTES


def test_endless_streams_end_in_an_error():
    """Whatever follows, a reader comes to a wrong field, CRC or limit."""
    limits = ReadLimits(block_bytes=1 << 20, metadata_bytes=1 << 20)
    for size in range(0, len(SAMPLE.data) + 1, 5):
        reader_input = Endless(SAMPLE.data[:size])
        with pytest.raises((CorruptError, LimitError, UnsupportedError)):
            list(SequentialReader(reader_input, limits=limits))


def test_expansion_counts_references_before_they_are_given():
    layers = [LayerSpec("a", [Block(b"1" * 100)], shape=(100,))]
    layers += [LayerSpec(f"r{i}", shape=(100,), kind=1, target="a") for i in range(20)]
    data = build(layers).data
    limits = ReadLimits(expansion=0, expansion_free_bytes=1000)
    seen = []

    def read():
        for layer in SequentialReader(Pipe(data), limits=limits):
            seen.append(layer.head.name)

    with pytest.raises(LimitError, match="expansion="):
        read()
    assert seen == ["a", *(f"r{i}" for i in range(9))]


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [(None, BlockingIOError, "no bytes yet"), (b"x" * 100, OSError, "returned 100 bytes")],
)
def test_streams_that_break_their_word(returned, error, message):
    class Stream:
        def read(self, n):
            return returned

    with pytest.raises(error, match=message):
        SequentialReader(Stream())


def test_errors_of_the_stream_pass_through():
    class Stream(Pipe):
        def read(self, n):
            if self._file.tell() > 400:
                raise ConnectionResetError("gone")
            return super().read(n)

    with pytest.raises(ConnectionResetError, match="gone"):
        list(SequentialReader(Stream(SAMPLE.data, 10)))
