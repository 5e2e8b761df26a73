# SPDX-License-Identifier: Apache-2.0
"""Single rans32 blocks: encoded with chosen options, taken apart, and decoded by both decoders."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import numpy as np
from support.spatial_blocks import as_bytes, whole
from support.token_streams import encode_stream
from support.tools import reference_decoder

from wcodec.codec import batch
from wcodec.errors import CorruptError


def encode(
    array: np.ndarray,
    low_bits: int = 0,
    *,
    sign_raw: bool = False,
    exponent_bits: int = 0,
    classes: bool = False,
    descriptors: np.ndarray | None = None,
) -> batch.Blocks:
    """Encode a matrix as one block, or as those of the descriptors, with one split."""
    return batch.encode_blocks(
        as_bytes(array),
        array.itemsize,
        whole(array) if descriptors is None else descriptors,
        batch.NO_ROWS,
        family=batch.RANS32,
        form_set=1 << 16 * sign_raw + low_bits,
        rans32=(exponent_bits, classes),
        verify=True,
        threads=1,
    )


def decode(blocks: batch.Blocks, array: np.ndarray, descriptors: np.ndarray | None = None):
    """Decode blocks into an array like this one."""
    out = np.zeros_like(as_bytes(array))
    data = np.concatenate([blocks.data, np.zeros(batch.READ_SLACK_BYTES, np.uint8)])
    batch.decode_blocks(
        batch.Blocks(blocks.headers, data),
        batch.RANS32,
        whole(array) if descriptors is None else descriptors,
        batch.NO_ROWS,
        out,
        array.itemsize,
        threads=1,
        layer="w",
    )
    return out.view(array.dtype).reshape(array.shape)


def decode_by_reference(blocks: batch.Blocks, array: np.ndarray) -> bytes:
    """The bytes that the reference decoder makes of one rans32 block."""
    reference = reference_decoder()
    header = blocks.headers[0]
    payload = memoryview(blocks.data.tobytes())[16 : 16 + int(header["payload_bytes"])]
    block = reference.Block(
        b"", int(header["coding"]), int(header["form"]), int(header["n_streams"]), payload, "block"
    )
    return reference.decode_rans32(block, *array.shape, array.itemsize).tobytes()


def refused(payload: bytes, array: np.ndarray, form: int = 0) -> str:
    """What the package says of a payload that both decoders must refuse."""
    blocks = batch.frame_block(batch.RANS32, form, payload)
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

    low_bits: int
    zero_bits: int
    n_tables: int
    classes: int
    n_runs: int
    escape: int
    reserved: int
    runs: bytes
    parameters: bytes
    stream: bytes
    escapes: bytes
    raw: bytes
    n_escapes: int
    sizes: tuple[int, int] | None = None  # None: those of the parts

    @staticmethod
    def of(blocks: batch.Blocks, unit_bytes: int) -> Payload:
        payload = blocks.data.tobytes()[16 : 16 + int(blocks.headers[0]["payload_bytes"])]
        *head, n_parameters, n_stream, n_escapes = struct.unpack_from("<6BH3I", payload)
        at = 20 + 3 * head[4]
        runs, parameters = payload[20:at], payload[at : at + n_parameters]
        at = -(-(at + n_parameters) // 16) * 16
        stream, at = payload[at : at + n_stream], -(-(at + n_stream) // 16) * 16
        size = n_escapes * min(unit_bytes, 2)
        escapes, at = payload[at : at + size], -(-(at + size) // 16) * 16
        return Payload(*head, runs, parameters, stream, escapes, payload[at:], n_escapes)

    def pack(self) -> bytes:
        sizes = self.sizes or (len(self.parameters), len(self.stream))
        head = (self.low_bits, self.zero_bits, self.n_tables, self.classes)
        head += (self.n_runs, self.escape, self.reserved)
        front = struct.pack("<6BH3I", *head, *sizes, self.n_escapes) + self.runs + self.parameters
        return _padded(front) + _padded(self.stream) + _padded(self.escapes) + self.raw

    def with_(self, **changes: object) -> bytes:
        return replace(self, **changes).pack()  # type: ignore[arg-type]


# ---- Payloads that the encoder would never write ----


class _Bits:
    """A bit string, the first bit lowest."""

    def __init__(self) -> None:
        self.value = 0
        self.n = 0

    def put(self, value: int, n: int) -> None:
        self.value |= (value & ((1 << n) - 1)) << self.n
        self.n += n

    def put_small(self, number: int, k: int) -> None:
        if number >> k < 16:
            self.put((1 << (number >> k)) - 1, (number >> k) + 1)
            self.put(number, k)
        else:
            self.put(0xFFFF, 16)
            self.put(number, 8)

    def put_signed(self, number: int, k: int) -> None:
        self.put_small(2 * number if number >= 0 else -2 * number - 1, k)

    def pack(self) -> bytes:
        return self.value.to_bytes(-(-self.n // 8), "little")


def frequencies_of(levels: list[int], precision: int) -> list[int]:
    """The frequencies of a table of levels, as docs/format.md section 16 has them."""
    weights = [256, 279, 304, 332, 362, 395, 431, 470]

    def weight(level: int) -> int:
        step = (level - 1) % (1 << precision)
        return weights[step << (3 - precision)] << ((level - 1) >> precision)

    total = sum(weight(level) for level in levels if level)
    found = [
        max(1, (4096 * weight(level) + total // 2) // total) if level else 0 for level in levels
    ]
    while sum(found) != 4096:
        found[found.index(max(found))] += 1 if sum(found) < 4096 else -1
    return found


def random_block(
    seed: int,
    unit_bytes: int,
    rows: int,
    cols: int,
    *,
    escape: bool | None = None,
    n_tables: int | None = None,
) -> tuple[np.ndarray, batch.Blocks]:
    """A block of random split, alphabet, tables, classes and units, and the units."""
    random = np.random.default_rng([seed, unit_bytes, rows, cols])

    def draw(low: int, high: int) -> int:  # both inclusive
        return int(random.integers(low, high + 1))

    top_bits = 8 if unit_bytes == 1 else 16
    form = draw(0, 1)
    least = 8 if unit_bytes == 8 else 1  # at most 56 raw bits
    code_bits = draw(least, top_bits - form)
    low_bits = top_bits - form - code_bits
    shift = 8 * unit_bytes - form - code_bits
    zero_bits = draw(0, shift) if draw(0, 1) else 0
    if escape is None:
        escape = bool(draw(0, 1))
    n_symbols = draw(1, min(1 << code_bits, 255 if draw(0, 1) else 9))
    codes = np.sort(random.choice(1 << code_bits, n_symbols, replace=False)).tolist()
    runs = []
    for code in codes:
        if runs and code == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([code, 1])
    codes += [0] * escape
    if n_tables is None:
        n_tables = draw(1, 16) if draw(0, 2) else 1
    row_classes, col_classes = draw(0, 1), draw(0, 1)

    bits = _Bits()
    frequencies, symbols_of = [], []
    for _ in range(n_tables):
        precision, k = draw(0, 3), draw(0, 7)
        levels = random.integers(0, 12 * 2**precision + 2, len(codes))
        levels[random.random(len(codes)) < 0.4] = 0
        levels[draw(0, len(codes) - 1)] = draw(1, 12 * 2**precision + 1)
        bits.put(precision, 2)
        bits.put(k, 3)
        for difference in np.diff(levels, prepend=0).tolist():
            bits.put_signed(difference, k)
        frequencies.append(frequencies_of(levels.tolist(), precision))
        symbols_of.append(np.flatnonzero(levels))
    classes = []
    for n, stored in ((rows, row_classes), (cols, col_classes)):
        found = random.integers(0, 16, n) if stored else np.zeros(n, np.int64)
        classes.append(found)
        if stored:
            base, k = draw(0, 15), draw(0, 7)
            bits.put(base, 4)
            bits.put(k, 3)
            for number in found.tolist():
                bits.put_signed(number - base, k)

    ids = np.minimum(classes[0][:, None] + classes[1], n_tables - 1).reshape(-1).tolist()
    symbols = [int(random.choice(symbols_of[table])) for table in ids]
    unit_codes, escapes = [], []
    for symbol in symbols:
        code = codes[symbol]
        if escape and symbol == len(codes) - 1:
            code = draw(0, (1 << code_bits) - 1)
            escapes.append(code)
        unit_codes.append(code)
    raw_bits = 8 * unit_bytes - code_bits - zero_bits
    raw, units = _Bits(), []
    values = [int.from_bytes(random.bytes(8), "little") % (1 << raw_bits) for _ in symbols]
    for code, value in zip(unit_codes, values, strict=True):
        raw.put(value, raw_bits)
        low = value & ((1 << (raw_bits - form)) - 1)
        sign = value >> (raw_bits - 1) << (8 * unit_bytes - 1) if form else 0
        units.append(code << shift | low << zero_bits | sign)
    payload = Payload(
        low_bits,
        zero_bits,
        n_tables,
        row_classes | col_classes << 1,
        len(runs),
        int(escape),
        0,
        b"".join(struct.pack("<HB", first, n - 1) for first, n in runs),
        bits.pack(),
        encode_stream(symbols, ids, frequencies),
        np.array(escapes, "<u1" if unit_bytes == 1 else "<u2").tobytes(),
        raw.pack(),
        len(escapes),
    )
    array = np.array(units, f"<u{unit_bytes}").reshape(rows, cols)
    return array, batch.frame_block(batch.RANS32, form, payload.pack())
