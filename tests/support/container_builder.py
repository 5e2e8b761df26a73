# SPDX-License-Identifier: Apache-2.0
"""Small wcodec files with any field values, written from docs/format.md and not with the package.

build() gives a Built: the bytes, and where each field is. Built.with_field() changes one field and
reseals: every CRC is computed again at the places of the original file, so a hostile value reaches
the checks behind the checksums. Only CRCs are made to agree, other copies of a field are not.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip

# Name and struct format of the fields of each record, in order.
HEADER = (
    ("magic", "4s"), ("major", "B"), ("minor", "B"), ("flags", "H"),
    ("metadata_stored_bytes", "Q"), ("metadata_bytes", "Q"), ("metadata_crc", "I"),
    ("header_crc", "I"),
)  # fmt: skip
HEAD = (
    ("magic", "4s"), ("head_bytes", "I"), ("kind", "B"), ("family", "B"), ("unit_bytes", "B"),
    ("flags", "B"), ("row_axes", "H"), ("rank", "H"), ("data_bytes", "Q"), ("block_rows", "I"),
    ("col_bands", "I"), ("panel_rows", "Q"), ("name_bytes", "I"), ("target_bytes", "I"),
    ("dtype_bytes", "H"), ("reserved", "6s"),
)  # fmt: skip
BLOCK = (
    ("crc", "I"), ("coding", "B"), ("form", "B"), ("n_streams", "B"), ("reserved", "B"),
    ("payload_bytes", "Q"),
)  # fmt: skip
INDEX = (
    ("magic", "4s"), ("flags", "I"), ("stored_bytes", "Q"), ("body_bytes", "Q"), ("n_layers", "Q"),
)  # fmt: skip
ENTRY = (
    ("record_offset", "Q"), ("record_bytes", "Q"), ("directory_offset", "Q"), ("data_bytes", "Q"),
    ("record_crc", "I"), ("n_blocks", "I"), ("name_bytes", "I"), ("target_bytes", "I"),
    ("dtype_bytes", "H"), ("rank", "H"), ("kind", "B"), ("family", "B"), ("unit_bytes", "B"),
    ("reserved", "B"),
)  # fmt: skip
FOOTER = (
    ("index_offset", "Q"), ("index_bytes", "Q"), ("index_crc", "I"), ("file_crc", "I"),
    ("footer_crc", "I"), ("magic", "4s"),
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A block of a layer; `padding` other than zero bytes is there to be refused."""

    payload: bytes
    coding: int = 0
    form: int = 0
    n_streams: int = 0
    padding: bytes = b"\0"


@dataclass(frozen=True)
class LayerSpec:
    """A layer to write; None stands for what the format wants."""

    name: str
    blocks: Sequence[Block] = ()
    dtype: str = "U8"
    shape: tuple[int, ...] = ()
    data_bytes: int | None = None
    family: int = 0
    kind: int = 0
    target: str = ""
    row_axes: int = 0
    block_rows: int | None = None
    col_bands: int | None = None
    panel_rows: int | None = None


METADATA: dict[str, Any] = {
    "wcodec_version": "0.1.0",
    "model_name": None,
    "options": {},
    "metadata": {"language": "日本"},
    "duplicates": True,
    "source": None,
}


def sample_layers() -> list[LayerSpec]:
    """Two raw blocks, a constant block, a reference, and a layer without blocks."""
    return [
        LayerSpec("raw", [Block(bytes(range(1, 22))), Block(b"\xff" * 16)], shape=(37,)),
        LayerSpec("constant", [Block(b"\0\0\x80\x3f", coding=1)], dtype="F32", shape=(2, 3),
                  family=2, row_axes=1, panel_rows=2),
        LayerSpec("again", dtype="I8", shape=(37, 1), kind=1, target="raw"),
        LayerSpec("empty", dtype="BF16", shape=(0, 4), family=5),
    ]  # fmt: skip


def sound_layers() -> list[LayerSpec]:
    """Two layers whose blocks are those of their grids, so that they decode."""
    return [
        LayerSpec("raw", [Block(bytes(range(37)))], shape=(37,)),
        LayerSpec("constant", [Block(b"\0\0\x80\x3f", coding=1)], dtype="F32", shape=(2, 3),
                  family=2, row_axes=1, block_rows=2, panel_rows=2),
    ]  # fmt: skip


@dataclass(frozen=True)
class Seal:
    """A CRC at `offset` over `ranges`, and the places that have a copy of it."""

    offset: int
    ranges: tuple[tuple[int, int], ...]
    copies: tuple[int, ...] = ()


@dataclass
class Built:
    """The bytes of a file and where things are in it.

    `fields` maps names such as "header.flags", "raw/head.rank", "raw/block1.coding",
    "raw/directory.form", "index.n_layers", "index/raw.kind" and "footer.index_bytes" to offset and
    struct format. Seals are in the order in which they must be computed.
    """

    data: bytes
    fields: dict[str, tuple[int, str]] = field(default_factory=dict)
    seals: list[Seal] = field(default_factory=list)

    def value(self, name: str) -> Any:
        offset, kind = self.fields[name]
        return struct.unpack_from("<" + kind, self.data, offset)[0]

    def with_field(self, name: str, value: Any) -> bytes:
        """Return the file with one field changed, resealed; a CRC stays as given."""
        return self.with_fields({name: value}, keep=self.fields[name][0])

    def with_fields(self, values: Mapping[str, Any], keep: int | None = None) -> bytes:
        """Return the file with some fields changed, resealed."""
        data = bytearray(self.data)
        for name, value in values.items():
            offset, kind = self.fields[name]
            struct.pack_into("<" + kind, data, offset, value)
        return self.reseal(data, keep)

    def with_byte(self, offset: int, value: int) -> bytes:
        """Return the file with one byte changed, resealed."""
        data = bytearray(self.data)
        data[offset] = value
        return self.reseal(data, keep=offset)

    def reseal(self, changed: bytes | bytearray, keep: int | None = None) -> bytes:
        """Return a changed file of the same size with every CRC right, except one at `keep`."""
        data = bytearray(changed)
        for seal in self.seals:
            if keep is not None and seal.offset <= keep < seal.offset + 4:
                continue
            crc = 0
            for begin, end in seal.ranges:
                crc = zlib.crc32(data[begin:end], crc)
            for place in (seal.offset, *seal.copies):
                struct.pack_into("<I", data, place, crc)
        return bytes(data)


def build(
    layers: Sequence[LayerSpec] | None = None, metadata: Mapping[str, Any] | bytes | None = None
) -> Built:
    """Return the file of these layers, metadata (bytes: as they are) and index uncompressed."""
    if not isinstance(metadata, bytes):
        value = METADATA if metadata is None else metadata
        metadata = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    return _Builder().build(sample_layers() if layers is None else layers, metadata)


class _Builder:
    def __init__(self) -> None:
        self._data = bytearray()
        self._built = Built(b"")
        self._late: list[Seal] = []  # of the index and the footer: they cover all the others

    def build(self, layers: Sequence[LayerSpec], metadata: bytes) -> Built:
        values: Mapping[str, Any] = {
            "magic": b"WCDC", "minor": 9,
            "metadata_stored_bytes": len(metadata), "metadata_bytes": len(metadata),
        }  # fmt: skip
        header = self._put(HEADER, values, "header.")
        self._data += metadata
        self._seal(24, [(32, 32 + len(metadata))])
        self._seal(28, [(header, 28)])
        self._align(64)
        entries = [self._layer(layer) for layer in layers]
        index, index_end = self._index(layers, entries)
        values = {"index_offset": index, "index_bytes": index_end - index, "magic": b"CDCW"}
        footer = self._put(FOOTER, values, "footer.")
        self._seal(footer + 16, [(index, index_end)])
        self._seal(footer + 20, [(0, footer)])
        self._seal(footer + 24, [(footer, footer + 24)])
        self._built.data = bytes(self._data)
        self._built.data = self._built.reseal(self._data)
        return self._built

    def _layer(self, layer: LayerSpec) -> dict[str, Any]:
        begin = len(self._data)
        values = _head_values(layer)
        self._put(HEAD, values, f"{layer.name}/head.")
        self._put_texts(layer)
        self._built.fields[f"{layer.name}/head.crc"] = (len(self._data), "I")
        self._seal(len(self._data), [(begin, len(self._data))])
        self._data += bytes(4)
        self._align(16)
        directory = 0
        if layer.kind == 0:
            headers = [self._block(layer.name, i, block) for i, block in enumerate(layer.blocks)]
            directory = len(self._data)
            self._directory(layer.name, headers)
        self._align(64)
        return values | {
            "record_offset": begin,
            "record_bytes": len(self._data) - begin,
            "directory_offset": directory - begin if directory else 0,
            "n_blocks": len(layer.blocks),
            "reserved": 0,
        }

    def _block(self, layer: str, i: int, block: Block) -> int:
        values = {
            "coding": block.coding, "form": block.form, "n_streams": block.n_streams,
            "payload_bytes": len(block.payload),
        }  # fmt: skip
        begin = self._put(BLOCK, values, f"{layer}/block{i}.")
        self._data += block.payload
        self._data += block.padding * (-len(self._data) % 16)
        return begin

    def _directory(self, layer: str, headers: list[int]) -> None:
        begin = self._put(BLOCK, {"coding": 255, "payload_bytes": 16 * len(headers)},
                          f"{layer}/directory.")  # fmt: skip
        for i, header in enumerate(headers):
            end = headers[i + 1] if i + 1 < len(headers) else begin
            copy = len(self._data)
            self._data += self._data[header : header + 16]
            self._seal(header, [(header + 4, end)], copies=(copy,))
            self._built.fields[f"{layer}/copy{i}.payload_bytes"] = (copy + 8, "Q")
            self._built.fields[f"{layer}/copy{i}.coding"] = (copy + 4, "B")
        self._seal(begin, [(begin + 4, len(self._data))])

    def _index(
        self, layers: Sequence[LayerSpec], entries: Sequence[Mapping[str, Any]]
    ) -> tuple[int, int]:
        sizes = [_entry_bytes(entry) for entry in entries]
        values = {
            "magic": b"WIDX", "stored_bytes": sum(sizes), "body_bytes": sum(sizes),
            "n_layers": len(layers),
        }  # fmt: skip
        index = self._put(INDEX, values, "index.")
        for layer, entry in zip(layers, entries, strict=True):
            at = self._put(ENTRY, entry, f"index/{layer.name}.")
            self._put_texts(layer)
            begin = entry["record_offset"]
            self._seal(at + 32, [(begin, begin + entry["record_bytes"])])
        return index, len(self._data)

    def _put(
        self, record: Sequence[tuple[str, str]], values: Mapping[str, Any], prefix: str
    ) -> int:
        begin = len(self._data)
        for name, kind in record:
            self._built.fields[prefix + name] = (len(self._data), kind)
            value = values.get(name, b"" if kind.endswith("s") else 0)
            self._data += struct.pack("<" + kind, value)
        return begin

    def _put_texts(self, layer: LayerSpec) -> None:
        self._data += struct.pack(f"<{len(layer.shape)}Q", *layer.shape)
        for text in (layer.name, layer.dtype, layer.target):
            self._data += text.encode("utf-8")

    def _seal(
        self, offset: int, ranges: list[tuple[int, int]], copies: tuple[int, ...] = ()
    ) -> None:
        self._built.seals.append(Seal(offset, tuple(ranges), copies))

    def _align(self, alignment: int) -> None:
        self._data += bytes(-len(self._data) % alignment)


def _head_values(layer: LayerSpec) -> dict[str, Any]:
    bits = BITS.get(layer.dtype, 8)
    elements = 1
    for size in layer.shape:
        elements *= size
    data_bytes = elements * bits // 8 if layer.data_bytes is None else layer.data_bytes
    texts = [len(text.encode("utf-8")) for text in (layer.name, layer.dtype, layer.target)]
    grid = int(layer.kind == 0 and data_bytes > 0)
    return {
        "magic": b"WLYR",
        "head_bytes": 56 + 8 * len(layer.shape) + sum(texts) + 4,
        "kind": layer.kind,
        "family": layer.family,
        "unit_bytes": (bits // 8 if bits % 8 == 0 else 1) if layer.kind == 0 else 0,
        "row_axes": layer.row_axes,
        "rank": len(layer.shape),
        "data_bytes": data_bytes,
        "block_rows": grid if layer.block_rows is None else layer.block_rows,
        "col_bands": grid if layer.col_bands is None else layer.col_bands,
        "panel_rows": grid if layer.panel_rows is None else layer.panel_rows,
        "name_bytes": texts[0],
        "dtype_bytes": texts[1],
        "target_bytes": texts[2],
    }


def _entry_bytes(entry: Mapping[str, Any]) -> int:
    texts = entry["name_bytes"] + entry["dtype_bytes"] + entry["target_bytes"]
    return 56 + 8 * int(entry["rank"]) + int(texts)


def hostile_values(built: Built, name: str) -> Iterator[Any]:
    """Yield values that the field has not: neighbours, zero, powers of two and the largest."""
    value = built.value(name)
    kind = built.fields[name][1]
    if kind.endswith("s"):
        for i in range(len(value)):
            yield value[:i] + bytes([value[i] ^ 1]) + value[i + 1 :]
        return
    largest = 256 ** struct.calcsize("<" + kind) - 1
    near = {value - 1, value + 1, value + 16, value + 64, 2 * value, value ^ 128}
    sizes = {0, 1, 2, 7, 16, 64, 128, largest // 2, largest // 2 + 1, largest - 15, largest}
    candidates = near | sizes
    yield from sorted(n for n in candidates if 0 <= n <= largest and n != value)
