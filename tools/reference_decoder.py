"""Decode a .wcodec file of format version 0.9, from docs/format.md alone.

A second implementation, to be read beside the document: its parts come in the order of the document
and carry its section numbers. It imports no wcodec, and is plain rather than fast, except that the
128 lanes of rans16 go together. Every rule is checked; whatever breaks one raises BadFile.

    python tools/reference_decoder.py FILE.wcodec OUT.safetensors

Sizes are Python integers, so no product overflows. The file is held in memory as a whole. How many
blocks a panel with row groups has shows only while it is decoded, so decode_grid takes the blocks
one by one, and the last panel must take the last block.
"""

import json
import math
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

import numpy as np
import zstandard
from numpy.typing import NDArray


class BadFile(ValueError):
    """The file breaks a rule of docs/format.md."""


# 1. Conventions -----------------------------------------------------------------------------------


def require(condition: bool, where: str, what: str) -> None:
    """Raise BadFile unless a rule of the document holds."""
    if not condition:
        raise BadFile(f"{where}: {what}")


def require_equal(found: object, expected: object, where: str, what: str) -> None:
    if found != expected:
        raise BadFile(f"{where}: {what} is {found!r}, expected {expected!r}")


def align(n: int, a: int) -> int:
    return (n + a - 1) // a * a


class Cursor:
    """Takes bytes from the front of a part of the file, and never past its end."""

    def __init__(self, data: memoryview, where: str) -> None:
        self.data = data
        self.where = where
        self.position = 0

    def take(self, n: int) -> memoryview:
        left = len(self.data) - self.position
        require(n <= left, self.where, f"{n} bytes wanted at {self.position}, {left} left")
        self.position += n
        return self.data[self.position - n : self.position]

    def fields(self, table: str) -> SimpleNamespace:
        """Take the fields of a table of the document, given as "type name type name ..."."""
        types, names = table.split()[::2], table.split()[1::2]
        layout = struct.Struct("<" + "".join(types))
        values = layout.unpack(self.take(layout.size))
        return SimpleNamespace(**dict(zip(names, values, strict=True)))

    def array(self, n: int, dtype: str) -> NDArray[Any]:
        return np.frombuffer(self.take(n * np.dtype(dtype).itemsize), dtype)

    def text(self, n: int) -> str:
        raw = bytes(self.take(n))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise BadFile(f"{self.where}: {raw[:80]!r} is not UTF-8") from None

    def zeros_to(self, a: int) -> None:
        """Take the zero bytes up to the next multiple of a, counted from the start of the part."""
        zeros = self.take(align(self.position, a) - self.position)
        require(not any(zeros), self.where, f"the padding before {self.position} is not zero")

    def finish(self) -> None:
        require_equal(len(self.data) - self.position, 0, self.where, "number of bytes left over")


def unpack_zstd_frame(frame: memoryview, content_bytes: int, where: str) -> bytes:
    """Return the content of a frame that states its size, uses no dictionary, needs a window of at
    most 2^25 bytes and ends here.
    """
    require(bytes(frame[:4]) == b"\x28\xb5\x2f\xfd", where, "not a zstd frame")
    try:
        parameters = zstandard.get_frame_parameters(frame)
        require_equal(parameters.content_size, content_bytes, where, "content size of the frame")
        require_equal(parameters.dict_id, 0, where, "dictionary of the frame")
        require(content_bytes > 0, where, "a zstd frame without content")
        require(parameters.window_size <= 2**25, where, f"{parameters.window_size=}")
        decoder = zstandard.ZstdDecompressor().decompressobj()
        content = bytes(decoder.decompress(frame))
    except zstandard.ZstdError as error:
        raise BadFile(f"{where}: zstd: {error}") from None
    require(decoder.eof, where, "the zstd frame is cut off")
    require_equal(len(decoder.unused_data), 0, where, "number of bytes after the zstd frame")
    require_equal(len(content), content_bytes, where, "size of the zstd content")
    return content


def parse_json(text: str, where: str) -> Any:
    """Parse JSON; refuse repeated keys, NaN, infinity and unpaired surrogates."""

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("repeated key")
        return dict(pairs)

    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")

    def integer(digits: str) -> float:
        if math.isinf(float(digits)):
            raise ValueError("a number beyond the range of a double")
        return -0.0 if digits == "-0" else int(digits)  # a number with a sign is no size

    try:
        value = json.loads(
            text, object_pairs_hook=unique_keys, parse_constant=no_constant, parse_int=integer
        )
        # Fails on unpaired surrogates and on what became infinite.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{where}: bad JSON: {error}") from None
    return value


def depth(value: object) -> int:
    """How many objects and lists are inside each other."""
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)


def is_text_to_text(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


# 2. File ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decoded:
    """What a file holds: its metadata, and (dtype, shape, bytes) of each layer in file order."""

    metadata: dict[str, Any]
    layers: dict[str, tuple[str, tuple[int, ...], bytes]]

    def restore(self) -> bytes:
        """Return the safetensors file that was encoded; ValueError if that was not the source."""
        source = self.metadata["source"]
        if source is None:
            raise ValueError("the source was not a safetensors file")
        header = source["header"].encode()
        parts = [struct.pack("<Q", len(header)), header]
        return b"".join(parts + [data for _, _, data in self.layers.values()])


def decode_file(path: str | Path) -> Decoded:
    return decode(Path(path).read_bytes())


def decode(data: bytes) -> Decoded:
    """Decode a file: header, footer, index and metadata first, then each record."""
    file = memoryview(data)
    header = read_header(file)
    footer = read_footer(file)
    first_record = align(32 + header.metadata_stored_bytes, 64)
    entries = read_index(file, first_record, footer.index_offset)
    metadata = read_metadata(file, header, entries)
    decoded: dict[str, bytes] = {}
    for entry in entries:
        decoded[entry.name] = decode_record(file, entry, decoded)
    return Decoded(metadata, {e.name: (e.dtype, e.shape, decoded[e.name]) for e in entries})


# 3. Header and metadata ---------------------------------------------------------------------------

HEADER = "4s magic B major B minor H flags Q metadata_stored_bytes Q metadata_bytes"
HEADER += " I metadata_crc I header_crc"
METADATA_KEYS = {"wcodec_version", "model_name", "options", "metadata", "duplicates", "source"}


def read_header(file: memoryview) -> SimpleNamespace:
    where = "header"
    header = Cursor(file, where).fields(HEADER)
    require_equal(header.magic, b"WCDC", where, "magic")
    require_equal((header.major, header.minor), (0, 9), where, "version")
    require_equal(header.header_crc, zlib.crc32(file[:28]), where, "header_crc")
    require(header.flags <= 1, where, f"reserved bits are set in flags {header.flags:#x}")
    if header.flags == 0:
        stored_bytes = header.metadata_stored_bytes
        require_equal(header.metadata_bytes, stored_bytes, where, "metadata_bytes")
    return header


def read_metadata(
    file: memoryview, header: SimpleNamespace, entries: list[SimpleNamespace]
) -> dict[str, Any]:
    where = "metadata"
    cursor = Cursor(file, where)
    cursor.fields(HEADER)
    stored = cursor.take(header.metadata_stored_bytes)
    cursor.zeros_to(64)
    require_equal(zlib.crc32(stored), header.metadata_crc, where, "CRC")
    if header.flags == 1:
        stored = memoryview(unpack_zstd_frame(stored, header.metadata_bytes, where))
    value = parse_json(Cursor(stored, where).text(len(stored)), where)

    metadata: dict[str, Any] = value if isinstance(value, dict) else {}
    require_equal(set(metadata), METADATA_KEYS, where, "set of keys")
    require(isinstance(metadata["wcodec_version"], str), where, "wcodec_version is not text")
    require(isinstance(metadata["model_name"], str | None), where, "model_name is not text")
    require(isinstance(metadata["options"], dict), where, "options is not an object")
    require(is_text_to_text(metadata["metadata"]), where, "metadata does not map text to text")
    require(isinstance(metadata["duplicates"], bool), where, "duplicates is not a boolean")
    references = [entry.name for entry in entries if entry.kind == REFERENCE]
    require(metadata["duplicates"] or not references, where, f"no duplicates, but {references}")
    source = metadata["source"]
    if source is not None:
        require(isinstance(source, dict), where, "source is not an object")
        require_equal(set(source), {"format", "header"}, where, "set of keys of source")
        require_equal(source["format"], "safetensors", where, "format of the source")
        require(isinstance(source["header"], str), where, "header of the source is not text")
        check_source_header(source["header"], entries)
    return metadata


def check_source_header(header: str, entries: list[SimpleNamespace]) -> None:
    """The header of the source names exactly the layers, in the order of their data offsets."""
    where = "header of the source"
    require(header.startswith("{"), where, "does not begin with {")
    require(len(header.encode()) <= 100_000_000, where, "is longer than safetensors allows")
    tensors = parse_json(header, where)
    require(depth(tensors) <= 127, where, "nests deeper than 127")
    user = tensors.pop("__metadata__", None)
    require(user is None or is_text_to_text(user), where, "__metadata__ is not text to text")
    require_equal(set(tensors), {entry.name for entry in entries}, where, "set of tensors")
    end = 0
    for entry in entries:
        begin, end = end, end + entry.data_bytes
        expected = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [begin, end]}
        tensor = tensors[entry.name]
        require(isinstance(tensor, dict), where, f"{entry.name!r} is not an object")
        # Compared as JSON text, in which true is not 1 and 4.0 is not 4. Other keys may be there.
        found = json.dumps({key: tensor.get(key) for key in expected})
        require_equal(found, json.dumps(expected), where, f"{entry.name!r}")
    by_offsets = sorted(tensors, key=lambda name: tensors[name]["data_offsets"])
    require_equal([entry.name for entry in entries], by_offsets, where, "order of the layers")


# 4. Layer record ----------------------------------------------------------------------------------

HEAD = "4s magic I head_bytes B kind B family B unit_bytes B flags H row_axes H rank Q data_bytes"
HEAD += " I block_rows I col_bands Q panel_rows I name_bytes I target_bytes H dtype_bytes"
HEAD += " 6s reserved"
HEAD_BYTES = 56
STORED, REFERENCE = 0, 1
RAW, CONSTANT, RANS16, RANS32, SPATIAL, LZ, ROW_GROUPS, DIRECTORY = 0, 1, 2, 3, 4, 5, 8, 255

DTYPES_OF_BITS = {
    4: "F4",
    6: "F6_E2M3 F6_E3M2",
    8: "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
    16: "I16 U16 F16 BF16",
    32: "I32 U32 F32",
    64: "C64 F64 I64 U64",
}
DTYPE_BITS = {dtype: bits for bits, names in DTYPES_OF_BITS.items() for dtype in names.split()}


def read_texts(cursor: Cursor, layer: SimpleNamespace) -> None:
    """Take the shape and the texts that follow the fixed part of a head or an index entry."""
    layer.shape = tuple(cursor.array(layer.rank, "<u8").tolist())
    layer.name = cursor.text(layer.name_bytes)
    layer.dtype = cursor.text(layer.dtype_bytes)
    layer.target = cursor.text(layer.target_bytes)


def head_bytes(layer: SimpleNamespace) -> int:
    texts = layer.name_bytes + layer.dtype_bytes + layer.target_bytes
    return int(HEAD_BYTES + 8 * layer.rank + texts + 4)


def check_layer(layer: SimpleNamespace, where: str) -> None:
    """Check what both the head and the index say of a layer, by itself."""
    require(layer.kind in (STORED, REFERENCE), where, f"kind {layer.kind} is unknown")
    require(1 <= layer.dtype_bytes <= 255, where, f"dtype of {layer.dtype_bytes} bytes")
    bits = DTYPE_BITS.get(layer.dtype)
    product = 1
    for axis in layer.shape:
        product *= axis
        require(product * (bits or 1) < 2**64, where, f"shape {layer.shape} overflows")
    if bits is not None:
        data_bits = math.prod(layer.shape) * bits
        require(layer.data_bytes * 8 == data_bits, where, f"{layer.data_bytes=}, {data_bits=}")
    unit_bytes = bits // 8 if bits is not None and bits % 8 == 0 else 1
    if layer.kind == REFERENCE:
        require_equal((layer.family, layer.unit_bytes), (0, 0), where, "(family, unit_bytes)")
    else:
        families = (RAW, RANS16, RANS32, SPATIAL, LZ)
        require(layer.family in families, where, f"family {layer.family} is unknown")
        divides = layer.unit_bytes > 0 and unit_bytes % layer.unit_bytes == 0
        require(divides, where, f"unit_bytes is {layer.unit_bytes}, no divisor of {unit_bytes}")
        require_equal(layer.target_bytes, 0, where, "target_bytes of a stored layer")


def read_head(cursor: Cursor, entry: SimpleNamespace) -> SimpleNamespace:
    """Take the head of a record and check it by itself and against the index."""
    where = cursor.where
    head = cursor.fields(HEAD)
    require_equal(head.magic, b"WLYR", where, "magic")
    require_equal(head.head_bytes, head_bytes(head), where, "head_bytes")
    read_texts(cursor, head)
    crc = zlib.crc32(cursor.data[: cursor.position])
    require_equal(cursor.fields("I head_crc").head_crc, crc, where, "head_crc")
    require(not any(head.reserved), where, "reserved bytes of the head are not zero")
    require(head.flags <= 1, where, f"reserved bits are set in flags {head.flags:#x}")
    check_layer(head, where)
    for field in ("kind", "family", "unit_bytes", "data_bytes", "shape", "name", "dtype", "target"):
        by_index = getattr(entry, field)
        require_equal(getattr(head, field), by_index, where, f"{field} (expected by the index)")
    require(head.row_axes <= head.rank, where, f"row_axes is {head.row_axes}, {head.rank=}")
    if DTYPE_BITS.get(head.dtype, 4) % 8 != 0:
        require_equal(head.row_axes, 0, where, "row_axes")
    return head


def decode_record(file: memoryview, entry: SimpleNamespace, decoded: dict[str, bytes]) -> bytes:
    """The bytes of one layer; of a reference, those that were decoded for its target."""
    where = entry.where
    span = slice(entry.record_offset, entry.record_offset + entry.record_bytes)
    record = Cursor(file[span], where)
    require_equal(zlib.crc32(record.data), entry.record_crc, where, "record_crc")
    head = read_head(record, entry)
    aims = (head.flags, head.block_rows, head.col_bands, head.panel_rows)
    if head.data_bytes == 0 or head.kind == REFERENCE:
        require(not any(aims), where, f"(flags, block_rows, col_bands, panel_rows) is {aims}")
    if head.kind == REFERENCE:
        require_equal(head.row_axes, 0, where, "row_axes of a reference")
        record.zeros_to(64)
        record.finish()
        return decoded[head.target]

    record.zeros_to(16)
    blocks: list[Block] = []
    while record.position < entry.directory_offset:
        blocks.append(read_block(record, f"{where}: block {len(blocks)}"))
    require_equal(record.position, entry.directory_offset, where, "end of the blocks")
    directory = read_block(record, f"{where}: directory")
    found = (directory.coding, directory.form, directory.n_streams)
    require_equal(found, (DIRECTORY, 0, 0), directory.where, "(coding, form, n_streams)")
    headers = b"".join(block.header for block in blocks)
    require(
        bytes(directory.payload) == headers, directory.where, "is not the headers of the blocks"
    )
    require_equal(len(blocks), entry.n_blocks, where, "number of blocks")
    record.zeros_to(64)
    record.finish()
    if head.data_bytes == 0:
        require_equal(len(blocks), 0, where, "number of blocks of an empty layer")
        return b""
    return decode_grid(head, blocks, where)


# 5. The block grid --------------------------------------------------------------------------------


def bands(n: int, aim: int) -> int:
    return max(1, (n + aim // 2) // aim)


def ranges(m: int, n: int) -> Iterator[tuple[int, int]]:
    """The m balanced ranges of n; one by one, since a file may claim any m."""
    return ((i * n // m, (i + 1) * n // m) for i in range(m))


def column_bands(cols: int, m: int) -> Iterator[tuple[int, int]]:
    u = cols // 128
    for a, b in ranges(m, u):
        yield (128 * a, 128 * b if b < u else cols)


def check_grid(head: SimpleNamespace, where: str) -> tuple[int, int]:
    """Check the grid of a layer with data, its bounds too; return rows and cols."""
    rows = math.prod(head.shape[: head.row_axes])
    cols = head.data_bytes // (rows * head.unit_bytes)
    u = cols // 128
    for name in ("block_rows", "col_bands", "panel_rows"):
        require(getattr(head, name) >= 1, where, f"{name} is 0")
    require(head.col_bands <= max(1, u), where, f"{head.col_bands} bands of {cols} columns")

    panel, m = head.panel_rows, bands(rows, head.block_rows)
    height, width = (rows + m - 1) // m, cols
    if head.flags == 1:
        require(panel <= min(rows, 2**24), where, f"panels of {panel} rows of {rows}")
        height = min(panel, 2 * head.block_rows - head.block_rows // 2 - 1)
        require(panel * cols * head.unit_bytes <= 2**28, where, f"panel of {panel} x {cols}")
    else:
        require_equal(head.panel_rows, rows, where, "panel_rows")
    if head.col_bands > 1:
        width = 128 * ((u + head.col_bands - 1) // head.col_bands) + cols % 128
    units = height * width
    fits = units <= 2**24 and units * head.unit_bytes <= 2**25
    require(fits, where, f"block of {height} x {width} units")
    fits = height * cols * head.unit_bytes <= 2**28 or head.block_rows == 1
    require(fits, where, f"row band of {height} x {cols} units")
    return rows, cols


def decode_grid(head: SimpleNamespace, blocks: list["Block"], where: str) -> bytes:
    """Decode all blocks of a layer with data and put the units of each in their place."""
    rows, cols = check_grid(head, where)
    n_panels = (rows + head.panel_rows - 1) // head.panel_rows
    fewest = head.col_bands * bands(rows, head.block_rows)
    if head.flags == 1:
        fewest = n_panels * (1 + head.col_bands)
    # So the memory taken below is bounded by the size of the record.
    require(len(blocks) >= fewest, where, f"{len(blocks)} blocks, the grid has {fewest} or more")
    left_over = iter(blocks)

    def next_block() -> Block:
        block = next(left_over, None)
        if block is None:
            raise BadFile(f"{where}: the grid has more than {len(blocks)} blocks")
        return block

    matrix = np.empty((rows, cols), f"<u{head.unit_bytes}")
    for top, bottom in ranges(n_panels, rows):
        groups: list[Any] = [range(rows)]
        if head.flags == 1:
            numbers = decode_row_groups(next_block(), bottom - top)
            groups = [top + np.flatnonzero(numbers == number) for number in range(8)]
        for members in groups:
            n = len(members)
            for first, last in ranges(bands(n, head.block_rows) if n else 0, n):
                place = members[first:last] if head.flags == 1 else slice(first, last)
                for left, right in column_bands(cols, head.col_bands):
                    shape = (last - first, right - left)
                    units = decode_block(next_block(), *shape, head)
                    matrix[place, left:right] = units.reshape(shape)
    require_equal(len(list(left_over)), 0, where, "number of blocks beyond the grid")
    return matrix.tobytes()


# 6. Blocks ----------------------------------------------------------------------------------------

BLOCK_HEADER = "I block_crc B coding B form B n_streams B reserved Q payload_bytes"


class Block(NamedTuple):
    header: bytes
    coding: int
    form: int
    n_streams: int
    payload: memoryview
    where: str


def read_block(cursor: Cursor, where: str) -> Block:
    """Take one block and check its CRC and padding."""
    start = cursor.position
    header = cursor.fields(BLOCK_HEADER)
    payload = cursor.take(header.payload_bytes)
    cursor.zeros_to(16)
    whole = cursor.data[start : cursor.position]
    require_equal(header.block_crc, zlib.crc32(whole[4:]), where, "block_crc")
    require_equal(header.reserved, 0, where, "reserved byte of the block")
    in_bounds = header.coding == DIRECTORY or 1 <= header.payload_bytes <= 2**25
    require(in_bounds, where, f"{header.payload_bytes=}")
    return Block(bytes(whole[:16]), header.coding, header.form, header.n_streams, payload, where)


# 7. Codings ---------------------------------------------------------------------------------------


def decode_block(block: Block, height: int, width: int, head: SimpleNamespace) -> NDArray[Any]:
    """The units of a block, row by row."""
    where, coding, form, w = block.where, block.coding, block.form, head.unit_bytes
    n = height * width
    known = coding in (RAW, CONSTANT, head.family)
    require(known, where, f"coding {coding} in a layer of family {head.family}")
    if coding == RANS16:
        return decode_rans16(block, n, w)
    if coding == RANS32:
        return decode_rans32(block, height, width, w)
    if coding == SPATIAL:
        return decode_spatial(block, height, width, w)
    require_equal(block.n_streams, 0, where, "n_streams")
    require(form == 0 or (coding == LZ and form == 1), where, f"form {form} of coding {coding}")
    if coding == LZ:
        content = np.frombuffer(unpack_zstd_frame(block.payload, n * w, where), np.uint8)
        if form == 1:  # byte j of unit i is byte j * n + i of the content
            content = content.reshape(w, n).T.ravel()
        return content.view(f"<u{w}")
    expected_bytes = w if coding == CONSTANT else n * w
    require_equal(len(block.payload), expected_bytes, where, "payload_bytes")
    units = np.frombuffer(block.payload, f"<u{w}")
    return np.repeat(units, n) if coding == CONSTANT else units


def decode_row_groups(block: Block, n_rows: int) -> NDArray[np.uint8]:
    """The group number of each row of a panel."""
    where, payload = block.where, block.payload
    require_equal((block.coding, block.n_streams), (ROW_GROUPS, 0), where, "(coding, n_streams)")
    require(block.form <= 1, where, f"form {block.form} of row groups")
    if block.form == 1:
        payload = memoryview(unpack_zstd_frame(payload, n_rows, where))
    require_equal(len(payload), n_rows, where, "number of group numbers")
    groups = np.frombuffer(payload, np.uint8)
    require(int(groups.max()) <= 7, where, f"group number {groups.max()}, expected 0 to 7")
    return groups


# 8. rans16 ----------------------------------------------------------------------------------------


def run_mask(high: int, low: int) -> int:
    return (1 << high + 1) - (1 << low)


class FieldMap(NamedTuple):
    """A row of the table; a field is the runs of word bits (high, low) from its top bit down."""

    name: str
    w: int
    coded: tuple[int, int]
    fields: tuple[tuple[tuple[int, int], ...], ...]

    def value_mask(self) -> int:
        mask = run_mask(*self.coded)
        return mask << 7 if self.w == 1 else mask >> (8 * self.w - 16)


P8_BF16, F7_BF16, F2_FP16 = ((15, 15), (6, 0)), ((15, 15), (5, 0)), ((8, 7),)
P8_FP32, F7_FP32, F3_FP32 = ((31, 31), (22, 16)), ((31, 31), (21, 16)), ((15, 13),)
P8_MID, P8_LOW = ((15, 8),), ((7, 0),)
F4_LOW, F3_LOW, F2_LOW, F3_FP8 = ((3, 0),), ((2, 0),), ((1, 0),), ((7, 7), (1, 0))

FIELD_MAPS = {
    1: FieldMap("bf16_e8", 2, (14, 7), (P8_BF16,)),
    2: FieldMap("bf16_e8m1", 2, (14, 6), (F7_BF16,)),
    3: FieldMap("fp16_e5m1", 2, (14, 9), (P8_BF16, F2_FP16)),
    4: FieldMap("fp32_e8", 4, (30, 23), (P8_FP32, P8_MID, P8_LOW)),
    5: FieldMap("fp32_e8m1", 4, (30, 22), (F7_FP32, P8_MID, P8_LOW)),
    6: FieldMap("fp32_e8_z13", 4, (30, 23), (P8_FP32, F3_FP32)),
    7: FieldMap("fp32_e8m1_z13", 4, (30, 22), (F7_FP32, F3_FP32)),
    8: FieldMap("fp32_e8_z16", 4, (30, 23), (P8_FP32,)),
    9: FieldMap("fp32_e8m1_z16", 4, (30, 22), (F7_FP32,)),
    10: FieldMap("int8_t4", 1, (7, 4), (F4_LOW,)),
    11: FieldMap("int8_t5", 1, (7, 3), (F3_LOW,)),
    12: FieldMap("int8_t6", 1, (7, 2), (F2_LOW,)),
    13: FieldMap("int8_t8", 1, (7, 0), ()),
    14: FieldMap("fp8_t5", 1, (6, 2), (F3_FP8,)),
}


def lane_of_unit(w: int) -> NDArray[np.intp]:
    """For each unit 64 g + e of a step the lane 64 g + p that holds it."""
    k, q, j = np.meshgrid(np.arange(w), np.arange(4), np.arange(16 // w), indexing="ij")
    lanes = np.empty(64, np.intp)
    lanes[64 // w * k + 16 // w * q + j] = 16 * q + 16 // w * k + j
    return np.concatenate([lanes, 64 + lanes])


def decode_rans16(block: Block, n: int, w: int) -> NDArray[Any]:
    """Take the payload part by part and put the words together."""
    where, n_streams = block.where, block.n_streams
    field_map = FIELD_MAPS.get(block.form)
    if field_map is None or field_map.w != w:
        raise BadFile(f"{where}: form {block.form} is no field map for units of {w} bytes")
    require(n_streams in (1, 2, 4), where, f"n_streams is {n_streams}, expected 1, 2 or 4")
    n_steps, n_tail = divmod(n, 128)

    payload = Cursor(block.payload, where)
    head = payload.fields("B n_symbols B escape H reserved")
    require_equal(head.reserved, 0, where, "reserved bytes of the payload")
    streams = [payload.fields("I stream_bytes I n_escapes") for _ in range(n_streams)]
    for s, stream in enumerate(streams):
        stream.n_steps = n_steps // n_streams + (s < n_steps % n_streams)
        most = 128 * stream.n_steps
        require(stream.stream_bytes <= most, where, f"{stream.stream_bytes=} of stream {s}")
        most = 0 if head.escape == 255 else most
        require(stream.n_escapes <= most, where, f"{stream.n_escapes=} of stream {s}")
    table = read_table(payload, head.n_symbols, head.escape, field_map)

    for s, stream in enumerate(streams):
        states = payload.array(256, "u1").reshape(2, 2, 64)  # group; low, high; lane
        require(bool(np.all(states[:, 1] > 0)), where, f"a state of stream {s} is below 256")
        coded = payload.array(stream.stream_bytes, "u1")
        payload.zeros_to(16)
        x = (states[:, 0] | states[:, 1].astype(np.uint16) << 8).ravel()
        stream.slots = decode_stream(table, x, coded, stream.n_steps, f"{where}: stream {s}")
    values = []
    for stream in streams:
        escapes = read_escapes(payload, stream.n_escapes, field_map)
        is_escape = table.is_escape[stream.slots]
        require_equal(int(is_escape.sum()), stream.n_escapes, where, "number of escapes")
        values.append(table.value[stream.slots])
        values[-1][is_escape] = escapes  # in the order of steps and then lanes
    words = np.concatenate(values).astype(np.uint32)
    words = words >> 7 if w == 1 else words << (8 * w - 16)

    sizes = [16 * sum(high - low + 1 for high, low in field) for field in field_map.fields]
    raw = payload.array(n_steps * sum(sizes), "u1").reshape(n_steps, sum(sizes))
    ends = np.cumsum(sizes, dtype=np.intp)
    for end, size, field in zip(ends, sizes, field_map.fields, strict=True):
        words |= place_field(raw[:, end - size : end], field)
    tail = payload.array(n_tail, f"<u{w}")
    payload.finish()
    units = words[:, lane_of_unit(w)].astype(f"<u{w}").ravel()
    return np.concatenate([units, tail])


class Table(NamedTuple):
    """What each of the 256 slots says; rest is slot - cum[i]."""

    freq: NDArray[np.uint16]
    rest: NDArray[np.uint16]
    value: NDArray[np.uint16]
    is_escape: NDArray[np.bool_]


def read_table(payload: Cursor, n_symbols: int, escape: int, field_map: FieldMap) -> Table:
    """Take the frequencies and values and spread them over the slots."""
    where = payload.where
    require(2 <= n_symbols <= 64, where, f"n_symbols is {n_symbols}, expected 2 to 64")
    require(escape in (255, n_symbols - 1), where, f"escape is {escape}, {n_symbols=}")
    freq = payload.array(n_symbols, "u1").astype(np.uint16)
    payload.zeros_to(2)
    values = payload.array(n_symbols, "<u2")
    payload.zeros_to(16)
    require(int(freq.min()) >= 1, where, "a frequency is 0")
    require_equal(int(freq.sum()), 256, where, "sum of the frequencies")
    mask = field_map.value_mask()
    require(not np.any(values & (0xFFFF ^ mask)), where, f"a value has bits outside {mask:#06x}")
    if escape != 255:
        require_equal(int(values[escape]), 0, where, "value of the escape symbol")
    ordered = values[:escape]  # all of them if escape is 255
    require(bool(np.all(ordered[:-1] < ordered[1:])), where, "values do not ascend")

    cum = np.cumsum(freq, dtype=np.intp) - freq
    symbol = np.repeat(np.arange(n_symbols), freq)  # i(slot)
    rest = (np.arange(256) - cum[symbol]).astype(np.uint16)
    return Table(freq[symbol], rest, values[symbol], symbol == escape)


def decode_stream(
    table: Table, x: NDArray[np.uint16], stream: NDArray[np.uint8], n_steps: int, where: str
) -> NDArray[np.uint8]:
    """Decode a stream from its states x; return the slot of each step and lane."""
    slots = np.empty((n_steps, 128), np.uint8)
    ahead = np.append(stream, np.zeros(128, np.uint8)).astype(np.uint16)
    used = 0
    for step in range(n_steps):
        slot = x & 255
        slots[step] = slot
        x = table.freq[slot] * (x >> 8) + table.rest[slot]  # <= 255 * 255 + 254: fits 16 bits
        hungry = np.flatnonzero(x < 256)  # the lanes that take a byte each, in lane order
        x[hungry] = x[hungry] << 8 | ahead[used : used + len(hungry)]
        used += len(hungry)
        require(used <= len(stream), where, f"its {len(stream)} bytes run out in step {step}")
    require_equal(used, len(stream), where, "number of bytes used")
    require(bool(np.all(x == 256)), where, "a final state is not 256")
    return slots


def read_escapes(payload: Cursor, n_escapes: int, field_map: FieldMap) -> NDArray[Any]:
    """Take the escape values of one stream."""
    mask = field_map.value_mask()
    values: NDArray[Any] = payload.array(n_escapes, "u1").astype(np.uint16)
    if mask.bit_count() > 8:
        values = values << 8 | payload.array(n_escapes, "u1")
    else:
        values = values << (8 if field_map.name == "fp16_e5m1" else 7)
    payload.zeros_to(16)
    return values & mask


def place_field(raw: NDArray[np.uint8], field: tuple[tuple[int, int], ...]) -> NDArray[np.uint32]:
    """Unpack a raw field of all steps and put its bits at their places in the words."""
    bits = sum(high - low + 1 for high, low in field)
    lanes: NDArray[Any] = raw
    if bits == 2:
        g, p = np.divmod(np.arange(128), 64)
        lanes = raw[:, 16 * g + p % 16] >> (2 * (p // 16)).astype(np.uint8) & 3
    elif bits != 8:
        bit_string = np.unpackbits(raw, axis=1, bitorder="little").reshape(-1, 128, bits)
        lanes = np.packbits(bit_string, axis=2, bitorder="little")[:, :, 0]
    words = np.zeros(lanes.shape, np.uint32)
    for high, low in field:
        bits -= high - low + 1
        words |= (lanes.astype(np.uint32) >> bits) << low & run_mask(high, low)
    return words


# 9. Index -----------------------------------------------------------------------------------------

INDEX_HEAD = "4s magic I flags Q stored_bytes Q body_bytes Q n_layers"
ENTRY = "Q record_offset Q record_bytes Q directory_offset Q data_bytes I record_crc I n_blocks"
ENTRY += " I name_bytes I target_bytes H dtype_bytes H rank B kind B family B unit_bytes B reserved"


def read_index(file: memoryview, first_record: int, offset: int) -> list[SimpleNamespace]:
    """Read and check the whole index; the records fill the file from first_record to offset."""
    where = "index"
    cursor = Cursor(file[offset:-32], where)
    head = cursor.fields(INDEX_HEAD)
    require_equal(head.magic, b"WIDX", where, "magic")
    require(head.flags <= 1, where, f"reserved bits are set in flags {head.flags:#x}")
    body = cursor.take(head.stored_bytes)
    cursor.finish()
    if head.flags == 1:
        body = memoryview(unpack_zstd_frame(body, head.body_bytes, where))
    require_equal(len(body), head.body_bytes, where, "size of the body")

    cursor = Cursor(body, where)
    entries: dict[str, SimpleNamespace] = {}
    end = first_record
    for _ in range(head.n_layers):
        entry = read_entry(cursor)
        require(entry.name not in entries, entry.where, "the name occurs twice")
        require_equal(entry.record_offset, end, entry.where, "record_offset")
        end += entry.record_bytes
        if entry.kind == REFERENCE:
            target = entries.get(entry.target)
            if target is None or target.kind != STORED:
                raise BadFile(f"{entry.where}: {entry.target!r} is no earlier stored layer")
            require_equal(entry.data_bytes, target.data_bytes, entry.where, "data_bytes")
        entries[entry.name] = entry
    cursor.finish()
    require_equal(offset, end, where, "index_offset")
    return list(entries.values())


def read_entry(cursor: Cursor) -> SimpleNamespace:
    """Take one entry and check it by itself."""
    entry = cursor.fields(ENTRY)
    read_texts(cursor, entry)
    where = entry.where = f"layer {entry.name!r}"
    require_equal(entry.reserved, 0, where, "reserved byte of the index")
    check_layer(entry, where)
    size = align(head_bytes(entry), 16)
    if entry.kind == REFERENCE:
        places = (entry.directory_offset, entry.n_blocks)
        require_equal(places, (0, 0), where, "(directory_offset, n_blocks)")
    else:
        require(entry.directory_offset >= size, where, f"{entry.directory_offset=} in the head")
        size = entry.directory_offset + 16 + 16 * entry.n_blocks
    require_equal(entry.record_bytes, align(size, 64), where, "record_bytes")
    return entry


# 10. Footer ---------------------------------------------------------------------------------------

FOOTER = "Q index_offset Q index_bytes I index_crc I file_crc I footer_crc 4s magic"


def read_footer(file: memoryview) -> SimpleNamespace:
    """Read the footer and check the CRCs of itself, the index and the file."""
    where = "footer"
    require(len(file) >= 64, where, f"a file of {len(file)} bytes has none")
    footer = Cursor(file[-32:], where).fields(FOOTER)
    require_equal(footer.magic, b"CDCW", where, "magic")
    require_equal(footer.footer_crc, zlib.crc32(file[-32:-8]), where, "footer_crc")
    end = len(file) - 32
    require_equal(footer.index_offset + footer.index_bytes, end, where, "end of the index")
    require_equal(footer.index_offset % 64, 0, where, "index_offset % 64")
    index = file[footer.index_offset : end]
    require_equal(footer.index_crc, zlib.crc32(index), where, "index_crc")
    require_equal(footer.file_crc, zlib.crc32(file[:end]), where, "file_crc")
    return footer


# 15. spatial --------------------------------------------------------------------------------------

# For each transform nine steps: the place and the factors.
LIFTING = {
    1: (
        (2, (2021, 4771, 0, -4827, -6400, 4386, -7957, 452)),
        (1, (150, 0, -1892, -1446, -2172, 134, -1783, -575)),
        (5, (2623, 1940, -1112, -2820, -971, 0, -2658, -1209)),
        (6, (803, -194, 1312, 3005, 3562, -95, 0, 1227)),
        (3, (-1697, 1458, 946, 0, -1449, 3404, -865, 2295)),
        (0, (0, -1031, -669, 2896, 3921, -2407, -3484, 1273)),
        (7, (-3483, -2023, -1312, 1585, 1255, 1071, -2284, 0)),
        (4, (846, 2917, 1892, 34, 0, -729, -883, 2434)),
        (2, (4967, 8011, 0, -4274, -5181, 884, 1223, 6133)),
    ),
    2: (
        (7, (-5782, -739, 6695, 8477, 2347, 6312, -4408, 0)),
        (0, (0, 2232, -2189, -4727, -2997, -4079, 2279, 1779)),
        (5, (-327, 938, 1078, 1125, 1034, 0, -807, -1444)),
        (3, (398, -2213, 1191, 0, -820, 1195, 920, -756)),
        (4, (3713, -1209, -2869, 2207, 0, 100, -2646, 328)),
        (6, (1128, -176, 554, -901, 2364, 1708, 0, 1147)),
        (1, (-3646, 0, -745, 163, -645, -4010, 2038, -1419)),
        (2, (-3319, -965, 0, -1526, 987, -2455, 2531, -1978)),
        (7, (5385, 5281, 4798, 3914, 1913, 7855, -7406, 0)),
    ),
    3: (
        (1, (7489, 0, -10300, 703, 7489, 8895, -2690, 9477)),
        (4, (4096, -1448, -5090, 1697, 0, 1697, -2399, 4799)),
        (5, (2896, -1024, -703, -1697, 1200, 0, -1697, 3393)),
        (6, (-4944, 724, 497, -1697, 3248, 2896, 0, -2399)),
        (3, (3496, -512, -3248, 0, -2296, 2048, 2896, -1200)),
        (7, (-848, -724, 1200, 2399, 848, -1200, 0, 0)),
        (2, (1200, 1024, 0, 703, -1200, -2399, 0, 1697)),
        (0, (0, -1448, 1697, -994, 1697, -703, 4096, -2399)),
        (1, (7489, 0, -8895, -1285, -8895, -2108, -7489, 10882)),
    ),
}


def token_numbers(token: int) -> tuple[int, int]:
    """The smallest number of a token, and how many raw bits are added to it."""
    if token < 16:
        return token, 0
    n_bits = (token - 16) // 4 + 2
    return (4 + token % 4) << n_bits, n_bits


def inverse_transform(squares: NDArray[np.uint32], transform: int) -> NDArray[np.uint32]:
    """Undo a transform of squares of 8 x 8: the columns, then the rows; modulo 2^32."""
    for axis in (1, 2):
        places = np.moveaxis(squares, axis, 0)  # places[i] is place i of every column, or row
        for place, factors in reversed(LIFTING[transform]):
            total = np.full_like(places[0], 2048)
            for factor, numbers in zip(factors, places, strict=True):
                total += np.uint32(factor % 2**32) * numbers
            places[place] -= (total.view(np.int32) >> 12).view(np.uint32)
    return squares


def decode_spatial(block: Block, height: int, width: int, w: int) -> NDArray[Any]:
    """Take the payload part by part, then restore tile after tile."""
    where = block.where
    require_equal(block.n_streams, 0, where, "n_streams")
    require(block.form <= 2 and w in (1, 2, 4), where, f"{block.form=} of units of {w} bytes")
    payload = Cursor(block.payload, where)
    head = payload.fields(
        "B tile_log2 B n_tables B tiles_coding B reserved I tiles_bytes I stream_bytes I raw_bytes"
    )
    require(2 <= head.tile_log2 <= 6, where, f"{head.tile_log2=}, expected 2 to 6")
    require(1 <= head.n_tables <= 8, where, f"{head.n_tables=}, expected 1 to 8")
    require(head.tiles_coding <= 2, where, f"{head.tiles_coding=}, expected 0 to 2")
    require_equal(head.reserved, 0, where, "reserved byte of the payload")
    tables = [read_token_table(payload, 127) for _ in range(head.n_tables)]
    tile_table = read_token_table(payload, 255) if head.tiles_coding == 2 else None
    payload.zeros_to(16)

    size = 1 << head.tile_log2
    places = [(r, c) for r in range(0, height, size) for c in range(0, width, size)]
    n_tiles = len(places)
    stored = payload.take(head.tiles_bytes)
    if tile_table is not None:
        tiles = decode_tokens(stored, [tile_table], np.zeros(n_tiles, np.uint8), where)
    else:
        expected = 1 if head.tiles_coding == 0 else n_tiles
        require_equal(head.tiles_bytes, expected, where, "tiles_bytes")
        tiles = np.broadcast_to(np.frombuffer(stored, np.uint8), n_tiles)
    payload.zeros_to(16)
    for tile in sorted(set(tiles.tolist())):
        predictor, transform, table = tile & 7, tile >> 3 & 3, tile >> 5
        require(predictor < 6 and table < head.n_tables, where, f"tile {tile:#x}")
        require(transform == 0 or size >= 8, where, f"transform {transform} in tiles of {size}")

    shapes = [(min(size, height - r), min(size, width - c)) for r, c in places]
    ids = np.repeat(tiles >> 5, [math.prod(shape) for shape in shapes])
    tokens = decode_tokens(payload.take(head.stream_bytes), tables, ids, where)
    payload.zeros_to(16)
    numbers = read_numbers(tokens, payload.take(head.raw_bytes), where)
    payload.finish()
    residuals = (numbers >> 1 ^ np.uint32(0) - (numbers & 1)).view(np.int32)

    image = np.zeros((height, width), f"<i{w}")
    for tile, (row, col), shape in zip(tiles.tolist(), places, shapes, strict=True):
        own, residuals = np.split(residuals, [math.prod(shape)])
        own = own.reshape(shape)
        if tile >> 3 & 3:
            rows, cols = shape[0] // 8 * 8, shape[1] // 8 * 8
            squares = own[:rows, :cols].reshape(rows // 8, 8, cols // 8, 8).swapaxes(1, 2)
            undone = inverse_transform(squares.reshape(-1, 8, 8).view(np.uint32), tile >> 3 & 3)
            squares = undone.view(np.int32).reshape(rows // 8, cols // 8, 8, 8)
            own = own.copy()
            own[:rows, :cols] = squares.swapaxes(1, 2).reshape(rows, cols)
        restore_tile(image, own, tile & 7, row, col)
    units = image.view(f"<u{w}").ravel()
    if block.form == 0:
        return units
    sign = 1 << 8 * w - 1
    return (
        units ^ units.dtype.type(sign)
        if block.form == 1
        else np.where(units & sign, units ^ units.dtype.type(sign - 1), units)
    )


class Slots(NamedTuple):
    """What each of the 4096 slots says; rest is slot - cum[i]."""

    frequency: NDArray[np.uint32]
    rest: NDArray[np.uint32]
    symbol: NDArray[np.uint8]


def read_token_table(payload: Cursor, most: int) -> Slots:
    """Take a table of symbols up to `most` and spread it over the slots."""
    where = payload.where
    n = payload.fields("B n_less_1").n_less_1 + 1
    entries = [payload.fields("B symbol H frequency") for _ in range(n)]
    symbols = np.array([entry.symbol for entry in entries], np.uint8)
    frequency = np.array([entry.frequency for entry in entries], np.uint32)
    require(bool(np.all(symbols[:-1] < symbols[1:])), where, "symbols do not ascend")
    require(int(symbols[-1]) <= most, where, f"symbol {symbols[-1]}, expected at most {most}")
    require(int(frequency.min()) >= 1, where, "a frequency is 0")
    require_equal(int(frequency.sum()), 4096, where, "sum of the frequencies")
    return spread_over_slots(symbols, frequency)


def spread_over_slots(symbols: NDArray[Any], frequency: NDArray[Any]) -> Slots:
    entry = np.repeat(np.arange(len(symbols)), frequency)
    cum = np.cumsum(frequency) - frequency
    rest = np.arange(4096) - cum[entry]
    return Slots(
        frequency[entry].astype(np.uint32), rest.astype(np.uint32), symbols[entry].astype(np.uint8)
    )


def decode_tokens(
    stream: memoryview, tables: list[Slots], ids: NDArray[np.uint8], where: str
) -> NDArray[np.uint8]:
    """Decode a stream of one symbol for each id, the number of its table, 32 of them at a time."""
    cursor = Cursor(stream, where)
    x = cursor.array(32, "<u4").copy()
    require(bool(np.all(x >= 1 << 16)), where, "a starting state is below 65536")
    words = cursor.array((len(stream) - 128) // 2, "<u2").astype(np.uint32)
    cursor.finish()
    frequency, rest, symbol = (np.stack(parts) for parts in zip(*tables, strict=True))
    symbols = np.empty(len(ids), np.uint8)
    used = 0
    for start in range(0, len(ids), 32):
        own = ids[start : start + 32]
        state = x[: len(own)]  # a view: the last step may have fewer lanes
        slot = state & 4095
        symbols[start : start + 32] = symbol[own, slot]
        state[:] = frequency[own, slot] * (state >> 12) + rest[own, slot]
        hungry = np.flatnonzero(state < 1 << 16)
        require(used + len(hungry) <= len(words), where, "a stream runs out of words")
        state[hungry] = state[hungry] << 16 | words[used : used + len(hungry)]
        used += len(hungry)
    require_equal(used, len(words), where, "number of words used")
    require(bool(np.all(x == 1 << 16)), where, "a final state is not 65536")
    return symbols


def read_numbers(tokens: NDArray[np.uint8], raw: memoryview, where: str) -> NDArray[np.uint32]:
    """The number of each token: its smallest one and the raw bits."""
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
    bases, sizes = np.array([token_numbers(token) for token in range(128)], np.uint32).T
    n_bits = sizes[tokens].astype(np.int64)
    require_equal(len(raw), (int(n_bits.sum()) + 7) // 8, where, "raw_bytes")
    require(not bits[int(n_bits.sum()) :].any(), where, "bits after the raw bits are not zero")
    numbers = bases[tokens]
    first = np.cumsum(n_bits) - n_bits
    for bit in range(int(sizes.max())):
        has = np.flatnonzero(n_bits > bit)
        numbers[has] += bits[first[has] + bit].astype(np.uint32) << np.uint32(bit)
    return numbers


def restore_tile(
    image: NDArray[Any], residuals: NDArray[np.int32], predictor: int, row: int, col: int
) -> None:
    """Add what is expected to each residual of a tile, unit by unit, modulo 2^(8 w)."""
    bits = 8 * image.itemsize
    for r, c in np.ndindex(*residuals.shape):
        y, x = row + r, col + c
        left = int(image[y, x - 1]) if x else 0
        top = int(image[y - 1, x]) if y else 0
        planar = left + top - (int(image[y - 1, x - 1]) if x and y else 0)
        median = sorted((left, top, planar))[1]
        expected = (0, left, top, (left + top) // 2, planar, median)[predictor]
        value = (expected + int(residuals[r, c])) % 2**bits
        image[y, x] = value - (value >> bits - 1 << bits)


# 16. rans32 ---------------------------------------------------------------------------------------

WEIGHTS = (256, 279, 304, 332, 362, 395, 431, 470)


class Bits:
    """Takes numbers from the front of a bit string."""

    def __init__(self, data: memoryview, where: str) -> None:
        self.string = int.from_bytes(data, "little")
        self.left = 8 * len(data)
        self.where = where

    def take(self, n: int) -> int:
        require(n <= self.left, self.where, "a bit string is too short")
        number = self.string & (1 << n) - 1
        self.string >>= n
        self.left -= n
        return number

    def small(self, k: int) -> int:
        """A signed small number."""
        ones = 0
        while ones < 16 and self.take(1):
            ones += 1
        number = self.take(8) if ones == 16 else ones << k | self.take(k)
        return number // 2 if number % 2 == 0 else -(number // 2) - 1

    def finish(self) -> None:
        require(self.left < 8, self.where, "a bit string is too long")
        require_equal(self.string, 0, self.where, "bits left over in a bit string")


def read_levels(bits: Bits, n_symbols: int) -> list[int]:
    """Take a table; the frequency of each symbol, 0 if it is not in the table."""
    p, k = bits.take(2), bits.take(3)
    level = 0
    weights = []
    for _ in range(n_symbols):
        level += bits.small(k)
        require(0 <= level <= (12 << p) + 1, bits.where, f"level {level} with precision {p}")
        octave, step = divmod(level - 1, 1 << p)
        weights.append(WEIGHTS[step << 3 - p] << octave if level > 0 else 0)
    total = sum(weights)
    require(total > 0, bits.where, "a table without symbols")
    frequency = [w and max(1, (4096 * w + total // 2) // total) for w in weights]
    while sum(frequency) != 4096:
        largest = frequency.index(max(frequency))
        frequency[largest] += 1 if sum(frequency) < 4096 else -1
    return frequency


def read_classes(bits: Bits, n: int) -> NDArray[np.int64]:
    base, k = bits.take(4), bits.take(3)
    classes = np.array([base + bits.small(k) for _ in range(n)])
    require(0 <= classes.min() and classes.max() <= 15, bits.where, "a class is not 0 to 15")
    return classes


def decode_rans32(block: Block, height: int, width: int, w: int) -> NDArray[Any]:
    """Take the payload part by part; then put codes and raw bits together."""
    where, n = block.where, height * width
    require_equal(block.n_streams, 0, where, "n_streams")
    require(block.form <= 1, where, f"{block.form=}")
    payload = Cursor(block.payload, where)
    head = payload.fields(
        "B low_bits B zero_bits B n_tables B classes B n_runs B escape H reserved"
        " I parameter_bytes I stream_bytes I n_escapes"
    )
    code_bits = (8 if w == 1 else 16) - head.low_bits - block.form
    require(code_bits >= 1, where, f"a code of {code_bits} bits")
    shift = 8 * w - block.form - code_bits
    require(head.zero_bits <= shift, where, f"{head.zero_bits=}, the code begins at {shift}")
    raw_bits = 8 * w - code_bits - head.zero_bits
    require(raw_bits <= 56, where, f"{raw_bits=}, expected at most 56")
    require(1 <= head.n_tables <= 16, where, f"{head.n_tables=}, expected 1 to 16")
    require(head.classes <= 3, where, f"reserved bits are set in {head.classes=}")
    require(head.escape <= 1, where, f"{head.escape=}, expected 0 or 1")
    require_equal(head.reserved, 0, where, "reserved bytes of the payload")

    codes: list[int] = []
    for _ in range(head.n_runs):
        run = payload.fields("H first B n_less_1")
        require(not codes or run.first > codes[-1], where, "the runs do not ascend")
        codes += range(run.first, run.first + run.n_less_1 + 1)
        require(codes[-1] < 1 << code_bits, where, f"code {codes[-1]} of {code_bits} bits")
    n_symbols = len(codes) + head.escape
    require(1 <= n_symbols <= 256, where, f"{n_symbols=}, expected 1 to 256")
    bits = Bits(payload.take(head.parameter_bytes), where)
    levels = [read_levels(bits, n_symbols) for _ in range(head.n_tables)]
    tables = [spread_over_slots(np.arange(n_symbols), np.array(own)) for own in levels]
    row_classes = read_classes(bits, height) if head.classes & 1 else np.zeros(height, int)
    col_classes = read_classes(bits, width) if head.classes & 2 else np.zeros(width, int)
    bits.finish()
    payload.zeros_to(16)

    ids = np.minimum(row_classes[:, None] + col_classes, head.n_tables - 1).astype(np.uint8)
    symbols = decode_tokens(payload.take(head.stream_bytes), tables, ids.ravel(), where)
    payload.zeros_to(16)
    escapes = payload.array(head.n_escapes, "u1" if w == 1 else "<u2")
    payload.zeros_to(16)
    found = np.array([*codes, 0][:n_symbols], np.uint64)[symbols]
    escaped = symbols == n_symbols - 1 if head.escape else np.zeros(n, bool)
    require_equal(head.n_escapes, int(escaped.sum()), where, "n_escapes")
    found[escaped] = escapes
    require(bool(np.all(found < 1 << code_bits)), where, "an escaped code is too large")

    raw = np.unpackbits(payload.array((n * raw_bits + 7) // 8, "u1"), bitorder="little")
    require(not raw[n * raw_bits :].any(), where, "bits after the raw bits are not zero")
    payload.finish()
    units = found << np.uint64(shift)
    places = [*range(head.zero_bits, shift), 8 * w - 1][:raw_bits]
    for place, column in zip(places, raw[: n * raw_bits].reshape(n, raw_bits).T, strict=True):
        units |= column.astype(np.uint64) << np.uint64(place)
    return units.astype(f"<u{w}")


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: reference_decoder.py FILE.wcodec OUT.safetensors", file=sys.stderr)
        return 2
    try:
        restored = decode_file(arguments[0]).restore()
    except ValueError as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    Path(arguments[1]).write_bytes(restored)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
