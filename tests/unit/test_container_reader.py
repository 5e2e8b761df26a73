# SPDX-License-Identifier: Apache-2.0
"""Random access: few requests, exact blocks with slack, any source, many threads, salvage."""

import gzip
import io
import os
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.container_builder import METADATA, Block, LayerSpec, build
from support.container_reading import Ranges, checked_bytes, read_layer, read_random

from wcodec.checksum import crc32
from wcodec.container import BytesInput, Reader
from wcodec.container.layer import SMALL_RECORD_BYTES
from wcodec.container.source import open_input
from wcodec.errors import CorruptError, LimitError, TruncatedError
from wcodec.limits import ReadLimits

SAMPLE = build()


def noise(seed: int, n: int) -> bytes:
    return np.random.default_rng(seed).bytes(n)


def large_layers() -> list[LayerSpec]:
    """Records above and below the size that is read at once, and more than both ends of a file."""
    blocks = [Block(noise(i, 10_000 + 17 * i)) for i in range(20)]
    return [
        LayerSpec("large", blocks, shape=(sum(len(b.payload) for b in blocks),)),
        LayerSpec("small", [Block(noise(99, 100))] * 3, shape=(300,)),
    ]


LARGE = build(large_layers())


@pytest.fixture
def sample_path(tmp_path):
    path = tmp_path / "sample.wcodec"
    path.write_bytes(SAMPLE.data)
    return path


def test_entries_and_metadata():
    with Reader(io.BytesIO(SAMPLE.data)) as reader:
        assert reader.file_bytes == len(SAMPLE.data)
        assert reader.format_version == "0.9"
        assert reader.metadata.metadata == METADATA["metadata"]
        assert reader.metadata.source_header is None
        assert list(reader.layers) == ["raw", "constant", "again", "empty"]
        assert reader.skipped == ()
        raw = reader.layers["raw"]
        assert (raw.dtype, raw.shape, raw.data_bytes, raw.n_blocks) == ("U8", (37,), 37, 2)
        assert raw.record_offset == SAMPLE.fields["raw/head.magic"][0]
        assert raw.directory_offset == SAMPLE.value("index/raw.directory_offset")
        assert raw.record_crc == crc32(SAMPLE.data[raw.record_offset : raw.record_end])
        with pytest.raises(TypeError):
            reader.layers["x"] = raw
        with pytest.raises(KeyError):
            reader.open_layer("x")


def test_references_resolve():
    with Reader(io.BytesIO(SAMPLE.data)) as reader:
        assert reader.layers["again"].is_reference
        assert reader.resolve("again") == reader.resolve("raw") == reader.layers["raw"]
        layer = reader.open_layer("again")
        assert layer.head.target == "raw"
        assert layer.head.shape == (37, 1)
        assert len(layer.headers) == 0
        layer.finish()
        with pytest.raises(CorruptError, match="has 0 blocks, expected at least 1"):
            layer.take(1)


@pytest.mark.parametrize("name", ["large", "small"])
def test_blocks_are_exact_and_followed_by_zero_slack(name):
    with Reader(io.BytesIO(LARGE.data)) as reader:
        layer = reader.open_layer(name)
        assert (reader.layers[name].record_bytes > SMALL_RECORD_BYTES) == (name == "large")
        whole = read_layer(layer)
        n = len(layer.headers)
        assert layer.offsets[-1] == len(whole)
        for first in range(n):
            for count in (0, 1, n - first):
                blocks = layer.read_blocks(first, count)
                begin, end = layer.offsets[first], layer.offsets[first + count]
                assert checked_bytes(blocks, name) == whole[begin:end]
                assert blocks.headers.tobytes() == layer.headers[first : first + count].tobytes()
                assert blocks.n_bytes == blocks.offsets[-1] == end - begin


def test_take_goes_through_the_blocks():
    with Reader(io.BytesIO(LARGE.data)) as reader:
        layer = reader.open_layer("large")
        parts = [checked_bytes(layer.take(count), "large") for count in (3, 0, 1, 16)]
        layer.finish()
        assert b"".join(parts) == read_layer(reader.open_layer("large"))
        with pytest.raises(CorruptError, match="'large': has 20 blocks, expected at least 21"):
            layer.take(1)
        other = reader.open_layer("large")
        other.take(19)
        with pytest.raises(CorruptError, match="'large': has 20 blocks, expected 19"):
            other.finish()


def test_layers_to_be_opened_together_lie_back_to_back():
    with Reader(io.BytesIO(SAMPLE.data)) as reader:
        entries = list(reader.layers.values())
        memory = np.zeros(len(SAMPLE.data), np.uint8)
        reader.read_records(entries[:2], memory)
        assert len(reader.open_layers(entries[:2], memory)) == 2
        with pytest.raises(ValueError, match="back to back"):
            reader.read_records([entries[0], entries[3]], memory)


def test_read_blocks_refuses_what_is_no_range():
    layer = Reader(io.BytesIO(LARGE.data)).open_layer("large")
    for first, count in ((-1, 1), (0, -1)):
        with pytest.raises(ValueError, match="blocks"):
            layer.read_blocks(first, count)
    with pytest.raises(CorruptError, match="expected at least 22"):
        layer.read_blocks(20, 2)


def test_a_buffer_can_be_reused():
    layer = Reader(io.BytesIO(LARGE.data)).open_layer("large")
    out = np.full(300_000, 255, np.uint8)
    blocks = layer.read_blocks(2, 5, out=out)
    assert blocks.data is out
    assert checked_bytes(blocks, "large") == checked_bytes(layer.read_blocks(2, 5), "large")
    assert out[blocks.n_bytes + 64 :].min() == 255
    exact = np.empty(blocks.n_bytes + 64, np.uint8)
    layer.read_blocks(2, 5, out=exact)
    for wrong in (exact[:-1], exact.view(np.int8), exact[::2], exact.reshape(1, -1)):
        with pytest.raises(ValueError, match="out "):
            layer.read_blocks(2, 5, out=wrong)


def test_a_small_remote_file_takes_one_request_and_a_layer_one_more():
    source = Ranges(SAMPLE.data)
    reader = Reader(source)
    assert source.requests == [[(0, len(SAMPLE.data))]]
    assert read_layer(reader.open_layer("raw"))
    assert len(source.requests) == 2


def test_a_large_remote_file_takes_one_request_for_both_ends():
    source = Ranges(LARGE.data)
    reader = Reader(source)
    assert source.requests == [[(0, 65536), (len(LARGE.data) - 65536, 65536)]]
    layer = reader.open_layer("large")
    assert len(source.requests) == 2
    assert len(source.requests[1]) == 2
    layer.take(20)
    assert len(source.requests) == 3


def test_large_metadata_and_index_take_one_request_more():
    layers = [LayerSpec(f"{i:0600}", [Block(noise(i, 900))], shape=(900,)) for i in range(200)]
    data = build(layers, METADATA | {"model_name": "x" * 100_000}).data
    source = Ranges(data)
    reader = Reader(source)
    assert [len(request) for request in source.requests] == [2, 2]
    assert len(reader.layers) == 200
    reader.check_file()


def test_paths_and_file_objects(sample_path):
    expected = read_random(io.BytesIO(SAMPLE.data))
    assert read_random(sample_path) == expected
    assert read_random(str(sample_path)) == expected
    assert read_random(os.fsencode(sample_path)) == expected
    for mode, buffering in (("rb", 0), ("rb", -1), ("r+b", -1)):
        with open(sample_path, mode, buffering=buffering) as file:
            file.seek(7)
            assert read_random(file) == expected
            assert not file.closed
    unflushed = open(sample_path.with_name("other"), "w+b")  # noqa: SIM115
    with unflushed:
        unflushed.write(SAMPLE.data)
        assert read_random(unflushed) == expected


def test_a_file_object_with_a_descriptor_of_other_bytes(tmp_path):
    """The descriptor of a gzip file has the compressed bytes."""
    path = tmp_path / "sample.wcodec.gz"
    path.write_bytes(gzip.compress(SAMPLE.data))
    with gzip.open(path) as file:
        assert read_random(file) == read_random(io.BytesIO(SAMPLE.data))


def test_a_file_object_that_gives_few_bytes_a_read():
    class Slow(io.BytesIO):
        def read(self, n=-1):
            return super().read(min(n, 13))

    assert read_random(Slow(SAMPLE.data)) == read_random(io.BytesIO(SAMPLE.data))


def test_a_path_that_is_no_regular_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Reader(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        Reader(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="not a regular file; read it as a stream"):
        Reader(tmp_path / "fifo")
    for source in (7, None, object()):
        with pytest.raises(TypeError, match="is not a path"):
            Reader(source)


def test_a_path_is_closed_with_the_reader_and_after_an_error(sample_path):
    before = len(os.listdir("/proc/self/fd"))
    reader = Reader(sample_path)
    layer = reader.open_layer("raw")
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.open_layer("constant")
    assert read_layer(layer)
    sample_path.write_bytes(SAMPLE.data[:-1])
    with pytest.raises(TruncatedError):
        Reader(sample_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_becomes_shorter_is_truncated(tmp_path):
    path = tmp_path / "large.wcodec"
    path.write_bytes(LARGE.data)
    with Reader(path) as reader:
        layer = reader.open_layer("large")
        os.truncate(path, 100_000)
        with pytest.raises(TruncatedError, match=r"bytes at offset .* then it ends"):
            layer.read_blocks(0, 20)
        with pytest.raises(TruncatedError):
            reader.check_file()


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"x", lambda d: None])
def test_a_source_that_gives_other_sizes(change):
    class Wrong(Ranges):
        def read_ranges(self, ranges):
            parts = super().read_ranges(ranges)
            changed = change(parts[-1])
            return parts[:-1] if changed is None else [*parts[:-1], changed]

    with pytest.raises((TruncatedError, ValueError), match=r"read_ranges returned|then it ends"):
        Reader(Wrong(SAMPLE.data))


def test_many_threads_read_one_layer(tmp_path):
    path = tmp_path / "large.wcodec"
    path.write_bytes(LARGE.data)
    barrier = threading.Barrier(8)
    for source in (path, io.BytesIO(LARGE.data)):
        with Reader(source) as reader, ThreadPoolExecutor(8) as pool:
            layer = reader.open_layer("large")
            expected = [checked_bytes(layer.read_blocks(i, 2), "large") for i in range(18)]

            def work(seed, layer=layer, expected=expected):
                barrier.wait()
                for i in np.random.default_rng(seed).permutation(18):
                    assert checked_bytes(layer.read_blocks(int(i), 2), "large") == expected[i]

            list(pool.map(work, range(8)))


def test_check_file_reads_in_pieces(monkeypatch):
    for piece in (1, 7, 64, 1 << 20):
        monkeypatch.setattr("wcodec.container.reader.CHECK_BYTES", piece)
        Reader(io.BytesIO(SAMPLE.data)).check_file()


def test_a_range_of_an_input_is_read_exactly(sample_path):
    memory = BytesInput(bytearray(SAMPLE.data))
    for source in (sample_path, io.BytesIO(SAMPLE.data), Ranges(SAMPLE.data), memory):
        opened = open_input(source)
        assert opened.size == len(SAMPLE.data)
        assert opened.read_many([(3, 5), (0, 0), (100, 1)]) == [
            SAMPLE.data[3:8],
            b"",
            SAMPLE.data[100:101],
        ]
        with pytest.raises(TruncatedError):
            opened.read(len(SAMPLE.data) - 1, 2)
        opened.close()


def test_only_what_nobody_can_change_is_shared():
    data = bytes(SAMPLE.data)
    for shared in (data, memoryview(data)):
        assert BytesInput(shared).shared(3, 5).tobytes() == data[3:8]
        assert BytesInput(shared).shared(3, len(data)) is None
    for copied in (bytearray(data), memoryview(bytearray(data)).toreadonly()):
        assert BytesInput(copied).shared(3, 5) is None


def same_but_crc(found, expected):
    return found._replace(record_crc=0) == expected._replace(record_crc=0)


class TestScan:
    def test_a_sound_file_gives_the_same_entries(self):
        for built in (SAMPLE, LARGE):
            scanned = Reader(io.BytesIO(built.data), scan=True)
            assert dict(scanned.layers) == dict(Reader(io.BytesIO(built.data)).layers)
            assert scanned.skipped == ()
            assert scanned.metadata == Reader(io.BytesIO(built.data)).metadata
            scanned.check_file()

    def test_without_index_and_footer(self):
        end = SAMPLE.value("footer.index_offset")
        for size in (end, end + 1, end + 40, len(SAMPLE.data) - 1):
            scanned = Reader(io.BytesIO(SAMPLE.data[:size]), scan=True)
            assert list(scanned.layers) == ["raw", "constant", "again", "empty"]
            assert [part.offset for part in scanned.skipped] == [end] * (size > end)

    @pytest.mark.parametrize(
        "field", ["head.name_bytes", "block0.payload_bytes", "directory.crc", "copy1.coding"]
    )
    def test_a_damaged_layer_is_skipped(self, field):
        offset, _ = LARGE.fields[f"large/{field}"]
        data = bytearray(LARGE.data)
        data[offset] ^= 0x41
        scanned = Reader(io.BytesIO(data), scan=True)
        assert list(scanned.layers) == ["small"]
        assert read_layer(scanned.open_layer("small"))
        (part,) = scanned.skipped
        assert part.offset == LARGE.value("index/large.record_offset")
        assert part.size == LARGE.value("index/large.record_bytes")
        assert part.reason

    def test_a_damaged_payload_is_left_to_the_block(self):
        data = bytearray(LARGE.data)
        data[LARGE.fields["large/block3.crc"][0] + 100] ^= 1
        scanned = Reader(io.BytesIO(data), scan=True)
        assert list(scanned.layers) == ["large", "small"]
        with pytest.raises(CorruptError, match="block 3"):
            read_layer(scanned.open_layer("large"))
        with pytest.raises(CorruptError, match="layer 'large': record: CRC is"):
            scanned.check_file()

    def test_a_reference_without_its_target_is_skipped(self):
        data = bytearray(SAMPLE.data)
        data[SAMPLE.fields["raw/head.rank"][0]] ^= 1
        scanned = Reader(io.BytesIO(data), scan=True)
        assert list(scanned.layers) == ["constant", "empty"]
        assert "refers to 'raw', which is no earlier layer" in scanned.skipped[1].reason

    def test_a_damaged_header_hides_the_metadata_only(self):
        for offset in (0, 9, 30, 40):
            data = bytearray(SAMPLE.data)
            data[offset] ^= 1
            scanned = Reader(io.BytesIO(data), scan=True)
            assert list(scanned.layers) == ["raw", "constant", "again", "empty"]
            with pytest.raises(CorruptError):
                _ = scanned.metadata

    def test_every_prefix_gives_the_layers_that_are_whole(self):
        ends = [entry.record_end for entry in Reader(io.BytesIO(SAMPLE.data)).layers.values()]
        for size in range(len(SAMPLE.data)):
            scanned = Reader(io.BytesIO(SAMPLE.data[:size]), scan=True)
            assert len(scanned.layers) == sum(end <= size for end in ends)
            for name in scanned.layers:
                read_layer(scanned.open_layer(name))

    def test_every_changed_byte_loses_at_most_its_layer_and_what_refers_to_it(self):
        entries = Reader(io.BytesIO(SAMPLE.data)).layers
        for offset in range(len(SAMPLE.data)):
            data = bytearray(SAMPLE.data)
            data[offset] ^= 0x20
            scanned = Reader(io.BytesIO(data), scan=True)
            for name, entry in entries.items():
                touched = [entry]
                if entry.is_reference:
                    touched.append(entries[entry.target])
                if all(not e.record_offset <= offset < e.record_end for e in touched):
                    assert same_but_crc(scanned.layers[name], entry)

    def test_a_file_stored_in_a_layer_is_stepped_over(self):
        layer = LayerSpec("file", [Block(bytes(32) + SAMPLE.data)], shape=(len(SAMPLE.data) + 32,))
        built = build([layer, LayerSpec("next", [Block(b"1")], shape=(1,))])
        assert list(Reader(io.BytesIO(built.data), scan=True).layers) == ["file", "next"]

    def test_a_scan_takes_no_time_that_grows_with_the_square(self):
        """Many heads whose first blocks end where the same long chain of blocks begins."""
        n_heads, n_blocks = 500, 4000
        one = build([LayerSpec("h", [Block(b"1")], shape=(1,))])
        begin = one.fields["h/head.magic"][0]
        head = one.data[begin : one.fields["h/block0.crc"][0]]
        data = bytearray(one.data[:begin])
        for i in range(n_heads):
            jump = 128 * (n_heads - i) - len(head) - 16
            data += head + struct.pack("<QQ", 0, jump) + bytes(112 - len(head))
        data += (struct.pack("<QQ", 0, 16) + bytes(16)) * n_blocks
        source = Ranges(bytes(data))
        scanned = Reader(source, scan=True)
        assert len(source.requests) < len(data) // 8 + 1100 < n_heads * n_blocks // 50
        assert not scanned.layers
        assert "given up" in scanned.skipped[-1].reason

    def test_a_scan_of_much_damage_reads_little_for_each(self):
        """Records without an end, one after the other: each is searched behind."""
        one = build([LayerSpec("h", [Block(b"1")], shape=(1,))])
        begin = one.fields["h/head.magic"][0]
        head = one.data[begin : one.fields["h/block0.crc"][0]]
        source = Ranges(one.data[:begin] + (head + bytes(128 - len(head))) * 1000)
        scanned = Reader(source, scan=True)
        assert len(scanned.skipped) == 1000
        n_read = sum(size for request in source.requests for _, size in request)
        assert n_read < 100 * source.size()

    def test_a_layer_of_bytes_without_blocks(self):
        scanned = Reader(io.BytesIO(build([LayerSpec("x", shape=(2,))]).data), scan=True)
        assert not scanned.layers
        assert "has 0 blocks for 2 bytes" in scanned.skipped[0].reason

    def test_a_scan_keeps_the_limit_of_the_metadata(self):
        limits = ReadLimits(metadata_bytes=10)
        scanned = Reader(io.BytesIO(SAMPLE.data), scan=True, limits=limits)
        with pytest.raises(LimitError, match="metadata_bytes"):
            _ = scanned.metadata

    def test_limits_of_a_scan_are_reported_as_skipped(self):
        scanned = Reader(io.BytesIO(SAMPLE.data), scan=True, limits=ReadLimits(n_layers=2))
        assert list(scanned.layers) == ["raw", "constant"]
        assert "ReadLimits(n_layers=3)" in scanned.skipped[0].reason
