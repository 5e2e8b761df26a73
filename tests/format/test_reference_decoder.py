"""The reference decoder against small files made here, by a writer of the document's other half.

The writer below is as plain as can be: it places bit by bit and codes symbol by symbol. It shares
nothing with the decoder or with wcodec, and lets a test falsify any field; checksums are computed
last, so that they do not shield what is behind them. The worked example of docs/rans.md is
recomputed at the end.
"""

import json
import random
import re
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support.tools import reference_decoder

ROOT = Path(__file__).parents[2]

reference = reference_decoder()
BadFile = reference.BadFile

RAW, CONSTANT, RANS16, LZ, ROW_GROUPS, DIRECTORY = 0, 1, 2, 5, 8, 255


# The writer: sections 2 to 7, 9 and 10 ------------------------------------------------------------


def pad(data: bytes, multiple: int) -> bytes:
    return data + bytes(-len(data) % multiple)


def with_crc(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def frame(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


def make_block(
    coding: int,
    payload: bytes,
    *,
    form: int = 0,
    n_streams: int = 0,
    reserved: int = 0,
    padding: bytes | None = None,
) -> bytes:
    header = struct.pack("<BBBBQ", coding, form, n_streams, reserved, len(payload))
    if padding is None:
        padding = bytes(-len(payload) % 16)
    body = header + payload + padding
    return struct.pack("<I", zlib.crc32(body)) + body


@dataclass
class Layer:
    """A layer as it is written; head and entry falsify single fields of the two."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data_bytes: int
    blocks: list[bytes] = field(default_factory=list)
    unit_bytes: int = 1
    family: int = RAW
    row_axes: int = 0
    flags: int = 0
    block_rows: int = 1
    col_bands: int = 1
    panel_rows: int = 1
    target: str | None = None
    directory: bytes | None = None
    head: dict[str, Any] = field(default_factory=dict)
    entry: dict[str, Any] = field(default_factory=dict)
    end: bytes | None = None
    seal: Callable[[bytes], bytes] = with_crc

    def texts(self) -> bytes:
        shape = struct.pack(f"<{len(self.shape)}Q", *self.shape)
        return shape + (self.name + self.dtype + (self.target or "")).encode()

    def common(self) -> dict[str, Any]:
        return {
            "kind": int(self.target is not None),
            "family": self.family,
            "unit_bytes": self.unit_bytes,
            "rank": len(self.shape),
            "data_bytes": self.data_bytes,
            "name_bytes": len(self.name.encode()),
            "target_bytes": len((self.target or "").encode()),
            "dtype_bytes": len(self.dtype.encode()),
        }

    def write_head(self) -> bytes:
        values = self.common()
        values |= {"magic": b"WLYR", "head_bytes": 56 + len(self.texts()) + 4, "reserved": bytes(6)}
        for name in ("flags", "row_axes", "block_rows", "col_bands", "panel_rows"):
            values[name] = getattr(self, name)
        order = "magic head_bytes kind family unit_bytes flags row_axes rank data_bytes block_rows"
        order += " col_bands panel_rows name_bytes target_bytes dtype_bytes reserved"
        values |= self.head
        fixed = struct.pack("<4sIBBBBHHQIIQIIH6s", *(values[name] for name in order.split()))
        return self.seal(fixed + self.texts())

    def write_record(self) -> tuple[bytes, int]:
        """The record and directory_offset."""
        if self.target is not None:
            return pad(self.write_head(), 64), 0
        record = pad(self.write_head(), 16) + b"".join(self.blocks)
        directory = self.directory
        if directory is None:
            directory = make_block(DIRECTORY, b"".join(block[:16] for block in self.blocks))
        end = record + directory
        return (pad(end, 64) if self.end is None else end + self.end), len(record)

    def write_entry(self, record: bytes, record_offset: int, directory_offset: int) -> bytes:
        values = self.common()
        values |= {"record_offset": record_offset, "record_bytes": len(record), "reserved": 0}
        values |= {"directory_offset": directory_offset, "record_crc": zlib.crc32(record)}
        values |= {"n_blocks": len(self.blocks)} | self.entry
        order = "record_offset record_bytes directory_offset data_bytes record_crc n_blocks"
        order += " name_bytes target_bytes dtype_bytes rank kind family unit_bytes reserved"
        return struct.pack("<4Q4I2H4B", *(values[name] for name in order.split())) + self.texts()


METADATA = {
    "wcodec_version": "0.1.0",
    "model_name": None,
    "options": {},
    "metadata": {"ä": "ö"},
    "duplicates": True,
    "source": None,
}


def make_file(
    layers: list[Layer],
    metadata: dict[str, Any] | bytes = METADATA,
    *,
    metadata_frame: bool = False,
    index_frame: bool = False,
    header: dict[str, Any] | None = None,
    index: dict[str, Any] | None = None,
    footer: dict[str, Any] | None = None,
    after_metadata: bytes | None = None,
    after_index: bytes = b"",
) -> bytes:
    text = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    stored = frame(text) if metadata_frame else text
    values: dict[str, Any] = {
        "magic": b"WCDC",
        "major": 0,
        "minor": 9,
        "flags": int(metadata_frame),
    }
    values |= {"stored": len(stored), "size": len(text), "crc": zlib.crc32(stored)}
    values |= header or {}
    file = with_crc(struct.pack("<4sBBHQQI", *values.values())) + stored
    file = pad(file, 64) if after_metadata is None else file + after_metadata

    body = b""
    for layer in layers:
        record, directory_offset = layer.write_record()
        body += layer.write_entry(record, len(file), directory_offset)
        file += record
    stored = frame(body) if index_frame else body
    values = {"magic": b"WIDX", "flags": int(index_frame), "stored": len(stored)}
    values |= {"size": len(body), "n_layers": len(layers)} | (index or {})
    index_bytes = struct.pack("<4sIQQQ", *values.values()) + stored + after_index

    index_crc = zlib.crc32(index_bytes)
    values = {"offset": len(file), "bytes": len(index_bytes), "index_crc": index_crc}
    values |= {"file_crc": zlib.crc32(file + index_bytes)} | (footer or {})
    magic: bytes = values.pop("magic", b"CDCW")
    return file + index_bytes + with_crc(struct.pack("<QQII", *values.values())) + magic


# The writer: section 8 ----------------------------------------------------------------------------

# form: (w, coded bits, [(field, word bits from its most significant bit down)])
P8_BF16, F7_BF16 = [15, 6, 5, 4, 3, 2, 1, 0], [15, 5, 4, 3, 2, 1, 0]
P8_FP32, F7_FP32 = [31, 22, 21, 20, 19, 18, 17, 16], [31, 21, 20, 19, 18, 17, 16]
LOW_16 = [("P8", [15, 14, 13, 12, 11, 10, 9, 8]), ("P8", [7, 6, 5, 4, 3, 2, 1, 0])]
FORMS: dict[int, tuple[int, range, list[tuple[str, list[int]]]]] = {
    1: (2, range(7, 15), [("P8", P8_BF16)]),
    2: (2, range(6, 15), [("F7", F7_BF16)]),
    3: (2, range(9, 15), [("P8", P8_BF16), ("F2", [8, 7])]),
    4: (4, range(23, 31), [("P8", P8_FP32), *LOW_16]),
    5: (4, range(22, 31), [("F7", F7_FP32), *LOW_16]),
    6: (4, range(23, 31), [("P8", P8_FP32), ("F3", [15, 14, 13])]),
    7: (4, range(22, 31), [("F7", F7_FP32), ("F3", [15, 14, 13])]),
    8: (4, range(23, 31), [("P8", P8_FP32)]),
    9: (4, range(22, 31), [("F7", F7_FP32)]),
}
ZERO_BITS = {6: 13, 7: 13, 8: 16, 9: 16}


def value_of(form: int, word: int) -> int:
    w, coded, _ = FORMS[form]
    return (word & sum(1 << bit for bit in coded)) >> (8 * w - 16)


def unit_of_lane(w: int, lane: int) -> int:
    g, p = divmod(lane, 64)
    q, rest = divmod(p, 16)
    k, j = divmod(rest, 16 // w)
    return 64 * g + (64 // w) * k + (16 // w) * q + j


def make_table(values: list[int], n_symbols: int) -> dict[int | None, int]:
    """Frequencies of the most common values in ascending order; None is the escape symbol."""
    common = Counter(values).most_common()
    kept = sorted(common if len(common) <= n_symbols else common[: n_symbols - 1])
    table: dict[int | None, int] = {v: max(1, 200 * count // len(values)) for v, count in kept}
    if len(common) > n_symbols or len(common) == 1:
        table[None] = 1
    table[max(table, key=lambda v: table[v])] += 256 - sum(table.values())
    return table


def encode_step_by_step(
    symbols: list[tuple[int, int]], n_lanes: int = 128
) -> tuple[list[int], bytes]:
    """Encode (freq, cum) of each step and lane; return the states to start from and the bytes."""
    states = [256] * n_lanes
    backwards = bytearray()
    for position in reversed(range(len(symbols))):
        freq, cum = symbols[position]
        x = states[position % n_lanes]
        if x >= freq << 8:
            backwards.append(x & 255)
            x >>= 8
        states[position % n_lanes] = (x // freq << 8) + x % freq + cum
    return states, bytes(reversed(backwards))


def place_fields(form: int, words: list[int]) -> bytes:
    """The raw fields of one step of 128 words in lane order."""
    result = b""
    for name, bits in FORMS[form][2]:
        numbers = []
        for word in words:
            number = 0
            for bit in bits:
                number = number << 1 | word >> bit & 1
            numbers.append(number)
        if name == "F2":
            packed = bytearray(32)
            for lane, number in enumerate(numbers):
                g, p = divmod(lane, 64)
                packed[16 * g + p % 16] |= number << 2 * (p // 16)
            result += packed
        else:
            string = sum(number << len(bits) * lane for lane, number in enumerate(numbers))
            result += string.to_bytes(len(bits) * 16, "little")
    return result


def rans16_parts(
    form: int, words: list[int], n_streams: int, n_symbols: int = 12
) -> dict[str, bytes]:
    """The parts of a payload under the names of the document, in order."""
    w = FORMS[form][0]
    n_steps = len(words) // 128
    in_lanes = [
        [words[128 * step + unit_of_lane(w, lane)] for lane in range(128)]
        for step in range(n_steps)
    ]
    values = [value_of(form, word) for word in words[: 128 * n_steps]] or [0, 1 << 14]
    table = make_table(values, n_symbols)
    cum, total = {}, 0
    for value, freq in table.items():
        cum[value] = total
        total += freq

    streams: dict[str, bytes] = {}
    escapes: dict[str, bytes] = {}
    sizes = b""
    first = 0
    for s in range(n_streams):
        steps = n_steps // n_streams + (1 if s < n_steps % n_streams else 0)
        coded, escaped = [], []
        for word in chain.from_iterable(in_lanes[first : first + steps]):
            value = value_of(form, word)
            if value not in table:
                escaped.append(value)
            key = value if value in table else None
            coded.append((table[key], cum[key]))
        first += steps
        states, stream = encode_step_by_step(coded)
        planes = b"".join(
            bytes(x >> shift & 255 for x in states[64 * g : 64 * g + 64])
            for g in (0, 1)
            for shift in (0, 8)
        )
        streams |= {f"states {s}": planes, f"stream {s}": stream}
        streams[f"stream padding {s}"] = bytes(-len(stream) % 16)
        if form in (2, 5, 7, 9):
            listed = bytes(v >> 8 for v in escaped) + bytes(v & 255 for v in escaped)
        else:
            listed = bytes(v >> (8 if form == 3 else 7) for v in escaped)
        escapes |= {f"escapes {s}": listed, f"escape padding {s}": bytes(-len(listed) % 16)}
        sizes += struct.pack("<II", len(stream), len(escaped))

    escape = len(table) - 1 if None in table else 255
    parts = {"n_symbols": bytes([len(table)]), "escape": bytes([escape]), "reserved": bytes(2)}
    parts |= {"stream sizes": sizes, "frequencies": bytes(table.values())}
    parts |= {"zero byte": bytes(len(table) % 2)}
    parts |= {"values": struct.pack(f"<{len(table)}H", *(v or 0 for v in table))}
    parts["table padding"] = bytes(-sum(map(len, parts.values())) % 16)
    parts |= streams | escapes
    parts["raw fields"] = b"".join(place_fields(form, step) for step in in_lanes)
    parts["tail"] = pack_words(w, words[128 * n_steps :])
    return parts


def pack_words(w: int, words: list[int]) -> bytes:
    return b"".join(word.to_bytes(w, "little") for word in words)


def some_words(form: int, n: int, seed: int = 0) -> list[int]:
    """Normally distributed weights as fp32, bf16 or fp16, and a few odd words for the escapes."""
    rng = random.Random(seed)
    w = FORMS[form][0]
    words = []
    for _ in range(n):
        word = struct.unpack("<I", struct.pack("<f", rng.gauss(0, 0.02)))[0]
        if form == 3:
            word = struct.unpack("<H", struct.pack("<e", rng.gauss(0, 0.02)))[0]
        elif w == 2:
            word >>= 16
        if rng.random() < 0.02:
            word = rng.getrandbits(8 * w)
        words.append(word >> ZERO_BITS.get(form, 0) << ZERO_BITS.get(form, 0))
    return words


def one_block_layer(block: bytes, dtype: str, w: int, data: bytes, family: int) -> Layer:
    """A vector in one block."""
    shape = (len(data) // w,)
    return Layer("a", dtype, shape, len(data), [block], unit_bytes=w, family=family)


def rans16_file(form: int, words: list[int], n_streams: int, **falsified: bytes) -> bytes:
    """A file of one rans16 block in which some parts of the payload are replaced."""
    w = FORMS[form][0]
    parts = rans16_parts(form, words, n_streams)
    assert falsified.keys() <= parts.keys()
    block = make_block(
        RANS16, b"".join((parts | falsified).values()), form=form, n_streams=n_streams
    )
    return make_file(
        [one_block_layer(block, {2: "BF16", 4: "F32"}[w], w, pack_words(w, words), RANS16)]
    )


def decode_only(file: bytes) -> bytes:
    """The bytes of the only layer."""
    ((_, _, data),) = reference.decode(file).layers.values()
    return bytes(data)


# Files as they should be --------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_streams", [1, 2, 4])
@pytest.mark.parametrize("n", [128 * 6 + 37, 128 * 3, 128, 100])
def test_rans16(form: int, n_streams: int, n: int) -> None:
    words = some_words(form, n, seed=n)
    assert decode_only(rans16_file(form, words, n_streams)) == pack_words(FORMS[form][0], words)


def test_rans16_has_escapes_and_bytes_to_hand_out() -> None:
    parts = rans16_parts(2, some_words(2, 128 * 6), 2)
    stream_bytes, n_escapes, *_ = struct.unpack("<4I", parts["stream sizes"])
    assert stream_bytes > 100
    assert n_escapes > 4


@pytest.mark.parametrize("form", FORMS)
def test_rans16_without_escape(form: int) -> None:
    coded = FORMS[form][1]
    mask = sum(1 << bit for bit in coded)
    top = 3 << coded.start
    words = [
        word & ~mask | top - (i % 4 << coded.start) for i, word in enumerate(some_words(form, 300))
    ]
    assert rans16_parts(form, words, 1)["escape"] == b"\xff"
    assert decode_only(rans16_file(form, words, 1)) == pack_words(FORMS[form][0], words)


def test_rans16_with_64_symbols_and_a_frequency_of_255() -> None:
    many = [(i % 63) << 7 for i in range(128 * 4)]
    parts = rans16_parts(1, many, 1, n_symbols=64)
    assert parts["n_symbols"] == b"\x3f"
    one = [5 << 7] * 128 * 4 + [9 << 7]
    assert rans16_parts(1, one, 1)["frequencies"] == b"\xff\x01"
    assert decode_only(rans16_file(1, one, 1)) == pack_words(2, one)


@pytest.mark.parametrize("w", [2, 4])
def test_lanes_follow_the_examples_of_the_document(w: int) -> None:
    lanes = reference.lane_of_unit(w).tolist()
    assert sorted(lanes) == list(range(128))
    assert all(lanes[unit_of_lane(w, lane)] == lane for lane in range(128))
    if w == 2:
        assert lanes[32] == 8


@pytest.mark.parametrize(("dtype", "w"), [("U8", 1), ("BF16", 2), ("F32", 4), ("C64", 8)])
def test_raw_constant_and_lz(dtype: str, w: int) -> None:
    data = random.Random(w).randbytes(20) * w
    shuffled = b"".join(data[j::w] for j in range(w))
    blocks = {
        "raw": make_block(RAW, data),
        "lz": make_block(LZ, frame(data)),
        "lz shuffled": make_block(LZ, frame(shuffled), form=1),
    }
    for block in blocks.values():
        assert decode_only(make_file([one_block_layer(block, dtype, w, data, LZ)])) == data
    block = make_block(CONSTANT, data[:w])
    assert decode_only(make_file([one_block_layer(block, dtype, w, data, RAW)])) == data[:w] * 20


def split(n: int, m: int) -> Iterator[range]:
    return (range(i * n // m, (i + 1) * n // m) for i in range(m))


def grid_layer(
    rows: int, cols: int, seed: int, group_form: int | None = None, **grid: Any
) -> Layer:
    """A layer of U8 in raw blocks; its bytes are those of random.Random(seed)."""
    data = random.Random(seed).randbytes(rows * cols)
    panel_rows = grid.setdefault("panel_rows", rows)
    blocks = []
    for panel in split(rows, -(-rows // panel_rows)):
        numbers = [0] * len(panel)
        if group_form is not None:
            numbers = [random.Random(row).choice([2, 3, 3, 7]) for row in panel]
            payload = frame(bytes(numbers)) if group_form else bytes(numbers)
            blocks.append(make_block(ROW_GROUPS, payload, form=group_form))
        for group in sorted(set(numbers)):
            members = [row for row, number in zip(panel, numbers, strict=True) if number == group]
            n_bands = max(1, (len(members) + grid["block_rows"] // 2) // grid["block_rows"])
            for band in split(len(members), n_bands):
                edges = [0, cols]
                if grid["col_bands"] > 1:
                    parts = split(cols // 128, grid["col_bands"])
                    edges = [128 * part.start for part in parts] + [cols]
                for left, right in pairwise(edges):
                    rows_of_block = (
                        data[row * cols :][:cols] for row in map(members.__getitem__, band)
                    )
                    blocks.append(
                        make_block(RAW, b"".join(row[left:right] for row in rows_of_block))
                    )
    flags = int(group_form is not None)
    return Layer("m", "U8", (rows, cols), len(data), blocks, row_axes=1, flags=flags, **grid)


@pytest.mark.parametrize(
    ("rows", "cols", "grid"),
    [
        (1, 1, {"block_rows": 1, "col_bands": 1}),
        (40, 5, {"block_rows": 9, "col_bands": 1}),
        (40, 5, {"block_rows": 1000, "col_bands": 1}),
        (7, 700, {"block_rows": 3, "col_bands": 2}),
        (7, 700, {"block_rows": 1, "col_bands": 5}),
    ],
)
def test_grid(rows: int, cols: int, grid: dict[str, int]) -> None:
    data = random.Random(3).randbytes(rows * cols)
    assert decode_only(make_file([grid_layer(rows, cols, 3, **grid)])) == data


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("panel_rows", [1, 25, 59, 60])
def test_row_groups(form: int, panel_rows: int) -> None:
    layer = grid_layer(60, 300, 4, form, block_rows=4, col_bands=2, panel_rows=panel_rows)
    assert decode_only(make_file([layer])) == random.Random(4).randbytes(60 * 300)


def raw_layer(name: str, dtype: str, shape: tuple[int, ...], data: bytes, w: int = 1) -> Layer:
    return Layer(name, dtype, shape, len(data), [make_block(RAW, data)] if data else [], w)


def empty_layer(name: str, dtype: str, shape: tuple[int, ...], w: int, **fields: Any) -> Layer:
    aims = {"block_rows": 0, "col_bands": 0, "panel_rows": 0}
    return Layer(name, dtype, shape, 0, unit_bytes=w, **(aims | fields))


def reference_layer(name: str, to: Layer, **fields: Any) -> Layer:
    aims = {"block_rows": 0, "col_bands": 0, "panel_rows": 0, "unit_bytes": 0}
    values: dict[str, Any] = {"dtype": to.dtype, "shape": to.shape, "data_bytes": to.data_bytes}
    return Layer(name, **(values | {"target": to.name} | aims | fields))


def source_of(layers: list[Layer]) -> tuple[dict[str, Any], str]:
    """Metadata with the source of layers, and that source's header."""
    tensors: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for layer in layers:
        begin, end = end, end + layer.data_bytes
        tensors[layer.name] = {
            "dtype": layer.dtype,
            "shape": list(layer.shape),
            "data_offsets": [begin, end],
        }
    header = json.dumps(tensors, ensure_ascii=False) + " " * 7
    return METADATA | {"source": {"format": "safetensors", "header": header}}, header


def some_layers() -> list[Layer]:
    scalar = raw_layer("scalar", "F32", (), b"\0\0\xc0\x7f", 4)
    return [
        empty_layer("empty", "I64", (2**40, 0, 2**40), 8, row_axes=2),
        scalar,
        raw_layer("Gewicht µ", "F4", (3, 2), b"abc"),
        raw_layer("of a later day", "X7", (5,), b"12345678"),
        reference_layer("same", scalar),
    ]


@pytest.mark.parametrize("metadata_frame", [False, True])
@pytest.mark.parametrize("index_frame", [False, True])
def test_whole_file_is_restored(metadata_frame: bool, index_frame: bool) -> None:
    layers = some_layers()
    metadata, header = source_of(layers)
    file = make_file(layers, metadata, metadata_frame=metadata_frame, index_frame=index_frame)
    decoded = reference.decode(file)
    data = [b"", b"\0\0\xc0\x7f", b"abc", b"12345678", b"\0\0\xc0\x7f"]
    assert decoded.metadata == metadata
    expected = {x.name: (x.dtype, x.shape, d) for x, d in zip(layers, data, strict=True)}
    assert decoded.layers == expected
    assert list(decoded.layers) == [layer.name for layer in layers]
    text = header.encode()
    assert decoded.restore() == struct.pack("<Q", len(text)) + text + b"".join(data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{"format": "pt"}', "null"),  # as the safetensors library takes it
        ('"dtype"', '"more": 1, "dtype"'),
        ('"dtype"', f'"more": {125 * "["}{125 * "]"}, "dtype"'),
        ("       ", ""),
        ("       ", "\n\t \r"),
        ("[3]", "[ 3 ]"),
    ],
)
def test_source_headers_that_are_valid(old: str, new: str) -> None:
    file = make_file([abc()], **source_case(old, new))
    header = source_of([abc()])[1].replace(old, new).encode()
    assert reference.decode(file).restore()[8:] == header + b"abc"


def test_file_without_layers() -> None:
    decoded = reference.decode(make_file([]))
    assert decoded.layers == {}
    with pytest.raises(BadFile, match="without content"):
        reference.decode(make_file([], index_frame=True))
    with pytest.raises(ValueError, match="not a safetensors file"):
        decoded.restore()


def test_command_line(tmp_path: Path) -> None:
    layers = some_layers()
    file, restored = tmp_path / "a.wcodec", tmp_path / "a.safetensors"
    file.write_bytes(make_file(layers, source_of(layers)[0]))
    command = [sys.executable, reference.__file__, str(file), str(restored)]
    subprocess.run(command, check=True)
    assert restored.read_bytes() == reference.decode_file(file).restore()
    file.write_bytes(file.read_bytes() + b"\0")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "footer: magic" in result.stderr


# Files as they should not be ----------------------------------------------------------------------


def test_every_prefix_is_refused() -> None:
    file = make_file([raw_layer("a", "U8", (3,), b"abc")])
    for size in range(len(file)):
        with pytest.raises(BadFile):
            reference.decode(file[:size])


def test_every_changed_bit_is_refused() -> None:
    file = make_file([raw_layer("a", "U8", (3,), b"abc")])
    for position in range(len(file)):
        changed = bytearray(file)
        changed[position] ^= 1 << position % 8
        with pytest.raises(BadFile):
            reference.decode(bytes(changed))


def decode_or_refuse(file: bytes, n_bytes: int) -> None:
    """A change behind correct checksums may pass, but may raise nothing else than BadFile."""
    try:
        data = decode_only(file)
    except BadFile:
        return
    assert len(data) == n_bytes


@pytest.mark.parametrize("form", [2, 3, 6])
def test_changes_of_a_payload_are_refused_or_decode(form: int) -> None:
    words = some_words(form, 128 * 4 + 5)
    data = pack_words(FORMS[form][0], words)
    payload = b"".join(rans16_parts(form, words, 2).values())
    rng = random.Random(form)
    for position in [*range(64), *rng.sample(range(64, len(payload)), 200)]:
        changed = add(payload, position, rng.choice([1, 255, rng.randrange(2, 255)]))
        block = make_block(RANS16, changed, form=form, n_streams=2)
        dtype = {2: "BF16", 4: "F32"}[FORMS[form][0]]
        layer = one_block_layer(block, dtype, FORMS[form][0], data, RANS16)
        decode_or_refuse(make_file([layer]), len(data))


@pytest.mark.parametrize("group_form", [None, 1])
def test_changes_of_a_head_are_refused_or_decode(group_form: int | None) -> None:
    layer = grid_layer(20, 300, 1, group_form, block_rows=6, col_bands=2)
    head_bytes = len(layer.write_head()) - 4
    for position in range(head_bytes):
        for amount in (1, 128, 255):

            def falsify(head: bytes, position: int = position, amount: int = amount) -> bytes:
                return with_crc(add(head, position, amount))

            layer.seal = falsify
            decode_or_refuse(make_file([layer]), 20 * 300)


def rans16_case(change: Callable[[dict[str, bytes]], dict[str, bytes]], form: int = 1) -> bytes:
    words = some_words(form, 128 * 5 + 9)
    return rans16_file(form, words, 2, **change(rans16_parts(form, words, 2)))


def add(part: bytes, position: int, amount: int) -> bytes:
    changed = bytearray(part)
    changed[position] = (changed[position] + amount) % 256
    return bytes(changed)


RANS16_CASES: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "too many symbols": (lambda p: {"n_symbols": b"\x41"}, "n_symbols is 65"),
    "one symbol": (lambda p: {"n_symbols": b"\x01"}, "n_symbols is 1"),
    "escape in the middle": (lambda p: {"escape": b"\x03"}, "escape is 3"),
    "escapes without escape": (lambda p: {"escape": b"\xff"}, "n_escapes"),
    "reserved": (lambda p: {"reserved": b"\0\1"}, "reserved bytes of the payload"),
    "sum of 257": (lambda p: {"frequencies": add(p["frequencies"], 2, 1)}, "sum of the freq"),
    "frequency 0": (
        lambda p: {"frequencies": b"\0" + add(p["frequencies"], 1, p["frequencies"][0])[1:]},
        "a frequency is 0",
    ),
    "values swapped": (
        lambda p: {"values": p["values"][2:4] + p["values"][:2] + p["values"][4:]},
        "do not ascend",
    ),
    "value twice": (lambda p: {"values": p["values"][2:4] + p["values"][2:]}, "do not ascend"),
    "value outside the mask": (lambda p: {"values": add(p["values"], 0, 64)}, "outside 0x7f80"),
    "value of the escape": (lambda p: {"values": add(p["values"], -1, 1)}, "escape symbol is 256"),
    "table padding": (lambda p: {"table padding": add(p["table padding"], -1, 1)}, "is not zero"),
    "state": (lambda p: {"states 1": add(p["states 1"], 127, 1)}, "stream 1"),
    "byte changed": (lambda p: {"stream 0": add(p["stream 0"], 5, 1)}, "stream 0"),
    "byte left over": (
        lambda p: {
            "stream sizes": add(p["stream sizes"], 0, 1),
            "stream 0": p["stream 0"] + b"\0",
            "stream padding 0": bytes(-(len(p["stream 0"]) + 1) % 16),
        },
        "number of bytes used",
    ),
    "byte missing": (
        lambda p: {
            "stream sizes": add(p["stream sizes"], 0, -1),
            "stream 0": p["stream 0"][:-1],
            "stream padding 0": bytes(-(len(p["stream 0"]) - 1) % 16),
        },
        "run out",
    ),
    "stream padding": (
        lambda p: {"stream padding 0": b"\1" * len(p["stream padding 0"])},
        "is not zero",
    ),
    "more bytes than units": (
        lambda p: {"stream sizes": struct.pack("<I", 385) + p["stream sizes"][4:]},
        "stream_bytes=385",
    ),
    "more escapes than units": (
        lambda p: {"stream sizes": p["stream sizes"][:4] + b"\xff\1\0\0" + p["stream sizes"][8:]},
        "n_escapes=511",
    ),
    "escape left over": (
        lambda p: {"stream sizes": add(p["stream sizes"], 4, 1)},
        "number of escapes",
    ),
    "escape missing": (
        lambda p: {"stream sizes": add(p["stream sizes"], 12, -1)},
        "number of escapes|is not zero",
    ),
    "escape padding": (
        lambda p: {"escape padding 0": b"\1" * len(p["escape padding 0"])},
        "is not zero",
    ),
    "raw field missing": (lambda p: {"raw fields": p["raw fields"][:-1]}, "bytes wanted"),
    "tail too long": (lambda p: {"tail": p["tail"] + b"\0"}, "left over"),
}


@pytest.mark.parametrize("case", RANS16_CASES)
def test_hostile_rans16(case: str) -> None:
    change, message = RANS16_CASES[case]
    with pytest.raises(BadFile, match=message):
        reference.decode(rans16_case(change))


def test_final_state_other_than_256_is_refused() -> None:
    # One step of a symbol of frequency 255 takes no bytes, and leads from 257 to 256.
    words = [5 << 7] * 128 + [9 << 7]
    assert rans16_parts(1, words, 1)["states 0"] == b"\1" * 256
    for lane_128 in (0, 63, 128, 191):
        states = add(b"\1" * 256, lane_128, 1)
        with pytest.raises(BadFile, match="a final state is not 256"):
            reference.decode(rans16_file(1, words, 1, **{"states 0": states}))


@pytest.mark.parametrize("form", ZERO_BITS)
def test_tail_may_set_the_bits_that_are_zero_in_steps(form: int) -> None:
    words = [*some_words(form, 130), 1 << ZERO_BITS[form] - 1]
    decoded = decode_only(rans16_file(form, words, 1))
    assert decoded == b"".join(word.to_bytes(4, "little") for word in words)


DATA = bytes(range(100))


def block_case(block: bytes, family: int = RAW, **fields: Any) -> bytes:
    layer = one_block_layer(block, "U16", 2, DATA, family)
    for name, value in fields.items():
        setattr(layer, name, value)
    return make_file([layer])


def rans16_block(**header: Any) -> bytes:
    parts = rans16_parts(1, [0] * 50, 1)
    values: dict[str, Any] = {"form": 1, "n_streams": 1} | header
    return make_block(RANS16, b"".join(parts.values()), **values)


def damaged(block: bytes, position: int) -> bytes:
    return add(block, position, 1)


BLOCK_CASES: dict[str, tuple[Callable[[], bytes], str]] = {
    "CRC": (lambda: block_case(damaged(make_block(RAW, DATA), 20)), "block 0: block_crc"),
    "padding": (
        lambda: block_case(make_block(RAW, DATA, padding=bytes(11) + b"\1")),
        "block 0: the padding|the padding before",
    ),
    "reserved": (lambda: block_case(make_block(RAW, DATA, reserved=1)), "reserved byte"),
    "raw too short": (lambda: block_case(make_block(RAW, DATA[:-1])), "payload_bytes is 99"),
    "raw too long": (lambda: block_case(make_block(RAW, DATA + b"a")), "payload_bytes is 101"),
    "raw of a form": (lambda: block_case(make_block(RAW, DATA, form=1)), "form 1 of coding 0"),
    "raw with streams": (lambda: block_case(make_block(RAW, DATA, n_streams=1)), "n_streams"),
    "constant": (lambda: block_case(make_block(CONSTANT, b"a")), "payload_bytes is 1, expected 2"),
    "constant of a form": (lambda: block_case(make_block(CONSTANT, b"ab", form=1)), "form 1"),
    "family raw": (
        lambda: block_case(make_block(LZ, frame(DATA))),
        "coding 5 in a layer of family 0",
    ),
    "family lz": (lambda: block_case(rans16_block(), LZ), "coding 2 in a layer of family 5"),
    "family rans16": (lambda: block_case(make_block(LZ, frame(DATA)), RANS16), "coding 5"),
    "row groups": (lambda: block_case(make_block(ROW_GROUPS, b"\0")), "coding 8"),
    "reserved coding": (lambda: block_case(make_block(3, DATA)), "coding 3"),
    "lz form": (lambda: block_case(make_block(LZ, frame(DATA), form=2), LZ), "form 2 of coding 5"),
    "lz size": (lambda: block_case(make_block(LZ, frame(DATA[1:])), LZ), "content size .* is 99"),
    "lz twice": (lambda: block_case(make_block(LZ, frame(DATA) * 2), LZ), "after the zstd frame"),
    "lz cut": (lambda: block_case(make_block(LZ, frame(DATA)[:-1]), LZ), "cut off|zstd"),
    "lz not zstd": (lambda: block_case(make_block(LZ, DATA), LZ), "not a zstd frame"),
    "lz without its size": (
        lambda: block_case(make_block(LZ, frame_without_size(DATA)), LZ),
        "content size",
    ),
    "lz skippable": (
        lambda: block_case(make_block(LZ, b"\x50\x2a\x4d\x18\0\0\0\0" + frame(DATA)), LZ),
        "not a zstd frame",
    ),
    "form of another unit": (
        lambda: block_case(rans16_block(form=4), RANS16),
        "form 4 is no field",
    ),
    "form 0": (lambda: block_case(rans16_block(form=0), RANS16), "form 0 is no field map"),
    "form 10": (lambda: block_case(rans16_block(form=10), RANS16), "form 10 is no field map"),
    "three streams": (lambda: block_case(rans16_block(n_streams=3), RANS16), "n_streams is 3"),
    "no streams": (lambda: block_case(rans16_block(n_streams=0), RANS16), "n_streams is 0"),
    "directory of other blocks": (
        lambda: block_case(make_block(RAW, DATA), directory=make_block(DIRECTORY, bytes(16))),
        "is not the headers",
    ),
    "directory of a form": (
        lambda: block_case(
            (block := make_block(RAW, DATA)), directory=make_block(DIRECTORY, block[:16], form=1)
        ),
        "coding, form, n_streams",
    ),
    "no directory": (
        lambda: block_case(make_block(RAW, DATA), directory=make_block(RAW, bytes(16))),
        "coding, form, n_streams",
    ),
    "end of the record": (
        lambda: block_case(make_block(RAW, DATA), end=bytes(15) + b"\1"),
        "is not zero|record_bytes",
    ),
    "block too many": (
        lambda: block_case(b"", blocks=[make_block(RAW, DATA)] * 2),
        "blocks beyond the grid is 1",
    ),
    "no block": (lambda: block_case(b"", blocks=[]), "0 blocks, the grid has 1 or more"),
    "block too few": (
        lambda: block_case(make_block(RAW, DATA[:50]), shape=(2, 25), row_axes=1, panel_rows=2),
        "1 blocks, the grid has 2 or more",
    ),
    "number of blocks": (
        lambda: block_case(make_block(RAW, DATA), entry={"n_blocks": 3}),
        "record_bytes|number of blocks",
    ),
}


def frame_without_size(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(content)


@pytest.mark.parametrize("case", BLOCK_CASES)
def test_hostile_block(case: str) -> None:
    make, message = BLOCK_CASES[case]
    with pytest.raises(BadFile, match=message):
        reference.decode(make())


def group_case(payload: bytes, **block: Any) -> bytes:
    layer = grid_layer(4, 3, 0, 0, block_rows=4, col_bands=1)
    layer.blocks[0] = make_block(ROW_GROUPS, payload, **block)
    return make_file([layer])


def change(layer: Layer, **fields: Any) -> Layer:
    for name, value in fields.items():
        setattr(layer, name, value)
    return layer


def abc(**fields: Any) -> Layer:
    return change(raw_layer("a", "U8", (3,), b"abc"), **fields)


def referring(**fields: Any) -> list[Layer]:
    return [abc(), reference_layer("b", abc(), **fields)]


def matrix(rows: int, cols: int, **grid: Any) -> Layer:
    """A layer of U16 of which only the bounds matter."""
    size = 2 * rows * cols
    values: dict[str, Any] = {"block_rows": 1, "col_bands": 1, "panel_rows": rows} | grid
    block = make_block(CONSTANT, b"ab")
    return Layer("a", "U16", (rows, cols), size, [block] * 99, 2, RAW, row_axes=1, **values)


def overflowing() -> Layer:
    return Layer("a", "F64", (2**62, 2**62), 0, [], 8, block_rows=0, col_bands=0, panel_rows=0)


LAYER_CASES: dict[str, tuple[Callable[[], list[Layer]], str]] = {
    "magic": (lambda: [abc(head={"magic": b"WLYS"})], "magic is b'WLYS'"),
    "head_bytes": (lambda: [abc(head={"head_bytes": 64})], "head_bytes is 64"),
    "head_crc": (lambda: [abc(seal=lambda head: head + bytes(4))], "head_crc"),
    "kind": (lambda: [abc(head={"kind": 2}, entry={"kind": 2})], "kind 2 is unknown"),
    "family": (lambda: [abc(family=1)], "family 1 is unknown"),
    "reserved family": (lambda: [abc(family=6)], "family 6 is unknown"),
    "unit_bytes": (lambda: [abc(unit_bytes=2)], "unit_bytes is 2, no divisor of 1"),
    "unit of another dtype": (lambda: [abc(dtype="X7", unit_bytes=2)], "unit_bytes is 2"),
    "flags": (lambda: [abc(flags=2)], "reserved bits are set in flags 0x2"),
    "reserved": (lambda: [abc(head={"reserved": b"\0\0\0\0\0\1"})], "reserved bytes"),
    "row_axes": (lambda: [abc(row_axes=2)], "row_axes is 2"),
    "row_axes of bytes": (lambda: [abc(dtype="X7", row_axes=1, panel_rows=3)], "row_axes is 1"),
    "data_bytes": (lambda: [abc(data_bytes=4)], "layer.data_bytes=4"),
    "half a byte": (lambda: [abc(dtype="F4", shape=(7,))], "data_bits=28"),
    "overflow": (lambda: [overflowing()], "overflows"),
    "dtype of no bytes": (lambda: [abc(dtype="")], "dtype of 0 bytes"),
    "dtype of 256 bytes": (lambda: [abc(dtype="X" * 256)], "dtype of 256 bytes"),
    "index: data_bytes": (lambda: [abc(dtype="X7", entry={"data_bytes": 4})], "data_bytes .* is 3"),
    "index: family": (lambda: [abc(entry={"family": LZ})], r"family \(expected by the index\)"),
    "index: record_offset": (lambda: [abc(entry={"record_offset": 0})], "record_offset is 0"),
    "index: record_bytes": (lambda: [abc(entry={"record_bytes": 65})], "record_bytes is 65"),
    "index: record_crc": (lambda: [abc(entry={"record_crc": 0})], "record_crc"),
    "index: directory": (lambda: [abc(entry={"directory_offset": 48})], "directory_offset=48"),
    "index: directory on": (
        lambda: [abc(entry={"directory_offset": 128})],
        "end of the blocks is 144",
    ),
    "index: reserved": (lambda: [abc(entry={"reserved": 1})], "reserved byte"),
    "index: rank": (lambda: [abc(entry={"rank": 9999})], "bytes wanted"),
    "name twice": (lambda: [abc(), abc()], "the name occurs twice"),
    "reference to nothing": (lambda: referring(target="c"), "'c' is no earlier stored layer"),
    "reference to itself": (lambda: referring(target="b"), "'b' is no earlier stored layer"),
    "later reference": (lambda: referring()[::-1], "'a' is no earlier stored layer"),
    "reference to a reference": (
        lambda: [*referring(), reference_layer("c", abc(name="b"))],
        "'b' is no earlier stored layer",
    ),
    "reference of another size": (
        lambda: referring(dtype="X7", data_bytes=4),
        "data_bytes is 4, expected 3",
    ),
    "reference with unit_bytes": (lambda: referring(unit_bytes=1), "family, unit_bytes"),
    "reference with flags": (lambda: referring(flags=1), "flags, block_rows, col_bands"),
    "reference with rows": (lambda: referring(row_axes=1), "row_axes of a reference"),
    "reference with blocks": (
        lambda: referring(entry={"n_blocks": 1}),
        "directory_offset, n_blocks",
    ),
    "target of a stored layer": (
        lambda: [abc(), abc(name="b", target="a", head={"kind": 0}, entry={"kind": 0})],
        "target_bytes of a stored",
    ),
    "no block_rows": (lambda: [abc(block_rows=0)], "block_rows is 0"),
    "no col_bands": (lambda: [abc(col_bands=0)], "col_bands is 0"),
    "no panel_rows": (lambda: [abc(panel_rows=0)], "panel_rows is 0"),
    "panel_rows of two": (lambda: [abc(panel_rows=2)], "panel_rows is 2, expected 1"),
    "column bands": (lambda: [abc(col_bands=2)], "2 bands of 3 columns"),
    "empty with block_rows": (
        lambda: [empty_layer("a", "U8", (0,), 1, block_rows=1)],
        "block_rows, col_bands",
    ),
    "empty with row groups": (lambda: [empty_layer("a", "U8", (0,), 1, flags=1)], "flags"),
    "empty with a block": (
        lambda: [empty_layer("a", "U8", (0,), 1, blocks=[make_block(RAW, b"x")])],
        "blocks of an empty layer is 1",
    ),
    "block of too many units": (lambda: [matrix(1, 2**24 + 1)], "block of 1 x 16777217 units"),
    "row band too large": (
        lambda: [matrix(2, 2**27, block_rows=2, col_bands=2**20)],
        "row band of 2 x 134217728 units",
    ),
    "panel too large": (
        lambda: [matrix(2**20, 200, flags=1)],
        "panel of 1048576 x 200",
    ),
    "more rows than blocks": (
        lambda: [matrix(2**30, 1)],
        "99 blocks, the grid has 1073741824 or more",
    ),
    "more data than blocks": (lambda: [matrix(2**58, 1, block_rows=2**24)], "99 blocks, the grid"),
}


@pytest.mark.parametrize("case", LAYER_CASES)
def test_hostile_layer(case: str) -> None:
    make, message = LAYER_CASES[case]
    with pytest.raises(BadFile, match=message):
        reference.decode(make_file(make()))


@pytest.mark.parametrize(
    ("payload", "block", "message"),
    [
        (b"\0\1\7\x08", {}, "group number 8"),
        (b"\0\1\2", {}, "number of group numbers is 3"),
        (b"\0\1\2\3\4", {}, "number of group numbers is 5"),
        (b"\0\1\2\3", {"form": 2}, "form 2 of row groups"),
        (b"\0\1\2\3", {"n_streams": 1}, "n_streams"),
        (frame(b"\0\1\2"), {"form": 1}, "content size"),
    ],
)
def test_hostile_row_groups(payload: bytes, block: dict[str, int], message: str) -> None:
    with pytest.raises(BadFile, match=message):
        reference.decode(group_case(payload, **block))


def test_row_groups_with_a_block_too_few_or_too_many() -> None:
    layer = grid_layer(60, 3, 0, 0, block_rows=4, col_bands=1)
    blocks = layer.blocks
    with pytest.raises(BadFile, match=f"the grid has more than {len(blocks) - 1} blocks"):
        reference.decode(make_file([change(layer, blocks=blocks[:-1])]))
    with pytest.raises(BadFile, match="number of blocks beyond the grid is 1"):
        reference.decode(make_file([change(layer, blocks=[*blocks, blocks[-1]])]))
    with pytest.raises(BadFile, match=r"\(coding, n_streams\) is \(0, 0\)"):
        reference.decode(make_file([change(layer, blocks=blocks[1:])]))


def metadata_case(**fields: Any) -> dict[str, Any]:
    return {"metadata": METADATA | fields}


def source_case(old: str, new: str) -> dict[str, Any]:
    metadata, header = source_of([abc()])
    assert old in header
    metadata["source"]["header"] = header.replace(old, new)
    return {"metadata": metadata}


TENSOR = '{"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}'

FILE_CASES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "magic": (lambda: {"header": {"magic": b"WCDD"}}, "header: magic"),
    "major": (lambda: {"header": {"major": 1}}, r"version is \(1, 9\)"),
    "minor": (lambda: {"header": {"minor": 1}}, r"version is \(0, 1\)"),
    "flags": (lambda: {"header": {"flags": 2}}, "header: reserved bits"),
    "metadata_bytes": (lambda: {"header": {"size": 5}}, "metadata_bytes is 5"),
    "metadata_crc": (lambda: {"header": {"crc": 5}}, "metadata: CRC"),
    "metadata beyond": (
        lambda: {"header": {"stored": 2**60, "size": 2**60}},
        "record_offset is 192",
    ),
    "metadata frame": (lambda: {"header": {"flags": 1}}, "metadata: not a zstd frame"),
    "padding": (lambda: {"metadata": bytes(33), "after_metadata": bytes(62) + b"\1"}, "not zero"),
    "gap": (lambda: {"metadata": bytes(32), "after_metadata": bytes(64)}, "record_offset is 128"),
    "no JSON": (lambda: {"metadata": b"{"}, "metadata: bad JSON"),
    "no UTF-8": (lambda: {"metadata": b"\xff"}, "metadata: .* is not UTF-8"),
    "huge integer": (lambda: {"metadata": b"9" * 309}, "range of a double"),
    "deep JSON": (lambda: {"metadata": b"[" * 100_000}, "metadata: bad JSON"),
    "no object": (lambda: {"metadata": b"[]"}, "metadata: set of keys"),
    "key twice": (lambda: {"metadata": b'{"a": 1, "a": 1}'}, "repeated key"),
    "NaN": (lambda: {"metadata": b"NaN"}, "NaN is not JSON"),
    "surrogate": (lambda: {"metadata": rb'"\ud800"'}, "bad JSON"),
    "another key": (lambda: metadata_case(more=1), "set of keys"),
    "wcodec_version": (lambda: metadata_case(wcodec_version=None), "wcodec_version is not"),
    "model_name": (lambda: metadata_case(model_name=1), "model_name is not text"),
    "options": (lambda: metadata_case(options=[]), "options is not an object"),
    "metadata": (lambda: metadata_case(metadata={"a": 1}), "text to text"),
    "duplicates": (lambda: metadata_case(duplicates=1), "duplicates is not a boolean"),
    "undeclared": (
        lambda: metadata_case(duplicates=False) | {"layers": referring()},
        r"no duplicates, but \['b'\]",
    ),
    "source": (lambda: metadata_case(source=1), "source is not an object"),
    "source key": (lambda: metadata_case(source={"format": "safetensors"}), "keys of source"),
    "source format": (lambda: metadata_case(source={"format": "x", "header": ""}), "format of"),
    "source header": (
        lambda: metadata_case(source={"format": "safetensors", "header": 1}),
        "header of the source is not text",
    ),
    "source start": (lambda: source_case('{"__meta', ' {"__meta'), "does not begin with"),
    "source metadata": (lambda: source_case('"pt"', "1"), "__metadata__ is not text"),
    "source name": (lambda: source_case('"a"', '"b"'), "set of tensors"),
    "source dtype": (lambda: source_case('"U8"', '"I8"'), "header of the source: 'a' is"),
    "source shape": (lambda: source_case("[3]", "[3, 1]"), "header of the source: 'a' is"),
    "source offset missing": (
        lambda: source_case(', "data_offsets": [0, 3]', ""),
        "header of the source: 'a' is",
    ),
    "source list": (lambda: source_case(TENSOR, "[]"), "'a' is not an object"),
    "source name twice": (
        lambda: source_case('{"format": "pt"}', '{"a": "", "a": ""}'),
        "repeated",
    ),
    "source depth": (
        lambda: source_case('"dtype"', f'"more": {126 * "["}{126 * "]"}, "dtype"'),
        "nests deeper",
    ),
    "source number": (lambda: source_case("[3]", "[3.0]"), "header of the source: 'a' is"),
    "source offsets": (lambda: source_case("[0, 3]", "[1, 4]"), "header of the source: 'a' is"),
    "index magic": (lambda: {"index": {"magic": b"WLYR"}}, "index: magic"),
    "index flags": (lambda: {"index": {"flags": 2}}, "index: reserved bits"),
    "index frame": (lambda: {"index": {"flags": 1}}, "index: not a zstd frame"),
    "index size": (lambda: {"index": {"size": 9}}, "size of the body"),
    "stored size": (lambda: {"index": {"stored": 2**63}}, "index: .* bytes wanted"),
    "fewer layers": (lambda: {"index": {"n_layers": 0}}, "index: number of bytes left over"),
    "more layers": (lambda: {"index": {"n_layers": 2**64 - 1}}, "index: 56 bytes wanted"),
    "after the index": (lambda: {"after_index": b"\0"}, "index: number of bytes left over"),
    "footer magic": (lambda: {"footer": {"magic": b"CDCV"}}, "footer: magic"),
    "index_offset": (lambda: {"footer": {"offset": 2**64 - 1}}, "end of the index"),
    "index_bytes": (lambda: {"footer": {"bytes": 3}}, "end of the index"),
    "index_crc": (lambda: {"footer": {"index_crc": 3}}, "index_crc"),
    "file_crc": (lambda: {"footer": {"file_crc": 3}}, "file_crc"),
}


@pytest.mark.parametrize("case", FILE_CASES)
def test_hostile_file(case: str) -> None:
    make, message = FILE_CASES[case]
    with pytest.raises(BadFile, match=message):
        reference.decode(make_file(**({"layers": [abc()]} | make())))


def test_footer_crc_and_trailing_bytes() -> None:
    file = make_file([abc()])
    with pytest.raises(BadFile, match="footer_crc"):
        reference.decode(file[:-8] + bytes(4) + file[-4:])
    with pytest.raises(BadFile, match="footer: magic"):
        reference.decode(file + bytes(64))
    with pytest.raises(BadFile, match="end of the index"):
        reference.decode(file + file[-32:])


# The worked example of docs/rans.md ---------------------------------------------------------------


def worked_example() -> tuple[str, list[list[str]], list[list[str]]]:
    """The section, the rows of its table of symbols and those of its table of steps."""
    document = (ROOT / "docs" / "rans.md").read_text(encoding="utf-8")
    section = document.split("## Worked example")[1]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in rows]
    symbols = [row for row in cells if len(row) == 3 and row[1].isdigit()]
    steps = [row for row in cells if len(row) == 8 and row[0].isdigit()]
    return section, symbols, steps


def numbers_after(words: str, section: str) -> list[int]:
    match = re.search(words + r" ((?:\d+, )*\d+)", section)
    assert match is not None
    return [int(number) for number in match[1].split(", ")]


def test_worked_example_decodes() -> None:
    section, symbols, steps = worked_example()
    table = {name: (int(freq), int(cum)) for name, freq, cum in symbols}
    assert sum(freq for freq, _ in table.values()) == 256
    states = numbers_after("the states", section)
    stream = iter(numbers_after("the stream", section))
    for position, row in enumerate(steps):
        step, lane = divmod(position, len(states))
        x = states[lane]
        slot = x & 255
        (name,) = (name for name, (freq, cum) in table.items() if cum <= slot < cum + freq)
        freq, cum = table[name]
        product = freq * (x >> 8) + slot - cum
        byte = next(stream) if product < 256 else None
        states[lane] = product if byte is None else product << 8 | byte
        found = [step, lane, x, slot, name, product, "" if byte is None else byte, states[lane]]
        assert row == [str(cell) for cell in found]
    assert states == [256] * len(states)
    assert list(stream) == []


def test_worked_example_encodes() -> None:
    section, symbols, steps = worked_example()
    table = {name: (int(freq), int(cum)) for name, freq, cum in symbols}
    message = [row[4] for row in steps]
    for step in range(4):
        assert f"step {step} is {' '.join(message[3 * step : 3 * step + 3])}" in section
    states, stream = encode_step_by_step([table[name] for name in message], n_lanes=3)
    assert states == numbers_after("the states", section)
    assert list(stream) == numbers_after("the stream", section)
