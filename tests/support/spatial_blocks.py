# SPDX-License-Identifier: Apache-2.0
"""Single spatial blocks: encoded with chosen options, taken apart, and decoded by both decoders."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import numpy as np
from support.token_streams import encode_stream
from support.tools import reference_decoder

from wcodec.codec import batch
from wcodec.errors import CorruptError

FORM = {"i": batch.SPATIAL_SIGNED, "u": batch.SPATIAL_UNSIGNED, "f": batch.SPATIAL_FLOAT}
ALL_PREDICTORS, ALL_TRANSFORMS = 63, 15


def whole(array: np.ndarray) -> np.ndarray:
    """The descriptors of a matrix as one block."""
    descriptors = np.zeros(1, batch.DESCRIPTOR)
    descriptors["row_stride"] = array.shape[1] * array.itemsize
    descriptors["row_index_first"] = batch.NO_ROW_INDEX
    descriptors["rows"], descriptors["cols"] = array.shape
    return descriptors


def as_bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def smooth(dtype: str, rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """A matrix that prediction makes smaller, with the whole range of its dtype here and there."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :cols]
    values = 40 * np.sin(x / 9) + 30 * np.cos(y / 7) + random.normal(0, 2, (rows, cols))
    kind = np.dtype(dtype)
    if kind.kind == "f":
        result = values.astype(kind)
    else:
        result = np.rint(values + (64 if kind.kind == "u" else 0)).astype(np.int64).astype(kind)
    flat = as_bytes(result).view(f"u{kind.itemsize}")
    wild = random.random(flat.size) < 0.002
    flat[wild] = random.integers(0, 1 << 8 * kind.itemsize, wild.sum(), dtype=np.uint64)
    return flat.view(kind).reshape(rows, cols)


def encode(
    array: np.ndarray,
    tile_log2: int = 4,
    predictors: int = ALL_PREDICTORS,
    transforms: int = ALL_TRANSFORMS,
    descriptors: np.ndarray | None = None,
) -> batch.Blocks:
    """Encode a matrix as one block, or as those of the descriptors."""
    return batch.encode_blocks(
        as_bytes(array),
        array.itemsize,
        whole(array) if descriptors is None else descriptors,
        batch.NO_ROWS,
        family=batch.SPATIAL,
        spatial=(FORM[array.dtype.kind], tile_log2, predictors, transforms),
        verify=True,
        threads=1,
    )


def decode(blocks: batch.Blocks, array: np.ndarray, descriptors: np.ndarray | None = None):
    """Decode blocks into an array like this one."""
    out = np.zeros_like(as_bytes(array))
    data = np.concatenate([blocks.data, np.zeros(batch.READ_SLACK_BYTES, np.uint8)])
    batch.decode_blocks(
        batch.Blocks(blocks.headers, data),
        batch.SPATIAL,
        whole(array) if descriptors is None else descriptors,
        batch.NO_ROWS,
        out,
        array.itemsize,
        threads=1,
        layer="w",
        first_block=0,
    )
    return out.view(array.dtype).reshape(array.shape)


def decode_by_reference(blocks: batch.Blocks, array: np.ndarray) -> bytes:
    """The bytes that the reference decoder makes of one spatial block."""
    reference = reference_decoder()
    header = blocks.headers[0]
    payload = memoryview(blocks.data.tobytes())[16 : 16 + int(header["payload_bytes"])]
    block = reference.Block(
        b"", int(header["coding"]), int(header["form"]), int(header["n_streams"]), payload, "block"
    )
    return reference.decode_spatial(block, *array.shape, array.itemsize).tobytes()


def refused(payload: bytes, array: np.ndarray, form: int = 0) -> str:
    """What the package says of a payload that both decoders must refuse."""
    blocks = batch.frame_block(batch.SPATIAL, form, payload)
    try:
        decode_by_reference(blocks, array)
    except reference_decoder().BadFile:
        pass
    else:
        raise AssertionError("the reference decoder accepts it")
    try:
        decode(blocks, array)
    except CorruptError as error:
        return str(error)
    raise AssertionError("the package accepts it")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


@dataclass(frozen=True)
class Payload:
    """The parts of a payload, to be changed one by one."""

    tile_log2: int
    n_tables: int
    tiles_coding: int
    reserved: int
    tables: bytes
    tiles: bytes
    stream: bytes
    raw: bytes
    sizes: tuple[int, int, int] | None = None  # None: those of the parts

    @staticmethod
    def of(blocks: batch.Blocks) -> Payload:
        payload = blocks.data.tobytes()[16 : 16 + int(blocks.headers[0]["payload_bytes"])]
        *head, n_tiles, n_stream, n_raw = struct.unpack_from("<4B3I", payload)
        at = 16
        for _ in range(head[1] + (head[2] == 2)):
            at += 1 + 3 * (payload[at] + 1)
        tables, at = payload[16:at], -(-at // 16) * 16
        tiles, at = payload[at : at + n_tiles], -(-(at + n_tiles) // 16) * 16
        stream, at = payload[at : at + n_stream], -(-(at + n_stream) // 16) * 16
        assert at + n_raw == len(payload)
        return Payload(*head, tables, tiles, stream, payload[at:])

    def pack(self) -> bytes:
        sizes = self.sizes or (len(self.tiles), len(self.stream), len(self.raw))
        head = (self.tile_log2, self.n_tables, self.tiles_coding, self.reserved)
        front = _padded(struct.pack("<4B3I", *head, *sizes) + self.tables)
        return front + _padded(self.tiles) + _padded(self.stream) + self.raw

    def with_(self, **changes: object) -> bytes:
        return replace(self, **changes).pack()  # type: ignore[arg-type]


# ---- Payloads that the encoder would never write ----


def _random_table(random: np.random.Generator, symbols: np.ndarray) -> list[int]:
    """Frequencies of 256 symbols, those that are chosen at least 1, which sum to 4096."""
    found = np.zeros(256, int)
    shares = random.pareto(0.7, len(symbols)) + 1e-3
    found[symbols] = np.maximum(1, shares / shares.sum() * (4096 - len(symbols))).astype(int)
    found[symbols[0]] += 4096 - found.sum()
    return found.tolist()


def _pack_table(frequencies: list[int]) -> bytes:
    entries = [(s, f) for s, f in enumerate(frequencies) if f]
    return bytes([len(entries) - 1]) + b"".join(struct.pack("<BH", *entry) for entry in entries)


def random_block(
    seed: int, unit_bytes: int, rows: int, cols: int, tile_log2: int, most_token: int = 127
) -> batch.Blocks:
    """A block of random form, tables, tiles, tokens and raw bits: whatever units they make."""
    random = np.random.default_rng([seed, unit_bytes, rows, cols])
    size = 1 << tile_log2
    shapes = [
        (min(size, rows - r), min(size, cols - c))
        for r in range(0, rows, size)
        for c in range(0, cols, size)
    ]
    n_tables = int(random.integers(1, 9))
    tables, tokens_of = [], []
    for _ in range(n_tables):
        n = int(random.integers(1, 1 + random.choice([2, 9, most_token + 1])))
        symbols = np.sort(random.choice(most_token + 1, min(n, most_token + 1), replace=False))
        tables.append(_random_table(random, symbols))
        tokens_of.append(symbols)
    tiles = random.integers(0, 6, len(shapes)) | random.integers(0, n_tables, len(shapes)) << 5
    if size >= 8:
        tiles |= random.integers(0, 4, len(shapes)) << 3
    coding = int(random.integers(0, 3))
    if coding == 0:
        tiles[:] = tiles[0]
    packed_tables = b"".join(map(_pack_table, tables))
    stored = bytes([tiles[0]]) if coding == 0 else tiles.astype(np.uint8).tobytes()
    if coding == 2:
        of_tiles = _random_table(random, np.unique(tiles))
        packed_tables += _pack_table(of_tiles)
        stored = encode_stream(tiles.tolist(), [0] * len(tiles), [of_tiles])
    ids = np.repeat(tiles >> 5, [r * c for r, c in shapes]).tolist()
    picks = random.integers(0, 1 << 30, len(ids)).tolist()
    tokens = [
        int(tokens_of[table][pick % len(tokens_of[table])])
        for table, pick in zip(ids, picks, strict=True)
    ]
    n_raw = sum((token - 16) // 4 + 2 for token in tokens if token >= 16)
    raw = bytearray(random.bytes(-(-n_raw // 8)))
    if n_raw % 8:
        raw[-1] &= (1 << n_raw % 8) - 1
    stream = encode_stream(tokens, ids, tables)
    payload = Payload(tile_log2, n_tables, coding, 0, packed_tables, stored, stream, bytes(raw))
    return batch.frame_block(batch.SPATIAL, int(random.integers(0, 3)), payload.pack())
