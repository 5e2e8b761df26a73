# SPDX-License-Identifier: Apache-2.0
"""Random valid rans16 payloads, written from docs/format.md section 8 in numpy.

They are wider than what the encoder of the package writes: any legal table, any number of streams,
any rate of escapes, escape bytes with bits set that the value mask takes away. For the tests of
every decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LANES = 128
GROUP_LANES = 64
NO_ESCAPE = 255

# A raw field is its kind and the word bits it holds, from the most significant to the least.
RawField = tuple[str, tuple[int, ...]]


def _bits(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last - 1, -1))


@dataclass(frozen=True)
class FieldMap:
    unit_bytes: int
    value_mask: int
    escape_shift: int  # of the one list of bytes; 0 where there are two lists
    raw: tuple[RawField, ...]
    zero_bits: int = 0


FIELD_MAPS = {
    1: FieldMap(2, 0x7F80, 7, (("P8", (15, *_bits(6, 0))),)),
    2: FieldMap(2, 0x7FC0, 0, (("F7", (15, *_bits(5, 0))),)),
    3: FieldMap(2, 0x7E00, 8, (("P8", (15, *_bits(6, 0))), ("F2", _bits(8, 7)))),
    4: FieldMap(
        4,
        0x7F80,
        7,
        (("P8", (31, *_bits(22, 16))), ("P8", _bits(15, 8)), ("P8", _bits(7, 0))),
    ),
    5: FieldMap(
        4,
        0x7FC0,
        0,
        (("F7", (31, *_bits(21, 16))), ("P8", _bits(15, 8)), ("P8", _bits(7, 0))),
    ),
    6: FieldMap(4, 0x7F80, 7, (("P8", (31, *_bits(22, 16))), ("F3", _bits(15, 13))), 13),
    7: FieldMap(4, 0x7FC0, 0, (("F7", (31, *_bits(21, 16))), ("F3", _bits(15, 13))), 13),
    8: FieldMap(4, 0x7F80, 7, (("P8", (31, *_bits(22, 16))),), 16),
    9: FieldMap(4, 0x7FC0, 0, (("F7", (31, *_bits(21, 16))),), 16),
    10: FieldMap(1, 0x7800, 7, (("F4", _bits(3, 0)),)),
    11: FieldMap(1, 0x7C00, 7, (("F3", _bits(2, 0)),)),
    12: FieldMap(1, 0x7E00, 7, (("F2", _bits(1, 0)),)),
    13: FieldMap(1, 0x7F80, 7, ()),
    14: FieldMap(1, 0x3E00, 7, (("F3", (7, *_bits(1, 0))),)),
}
FORMS = tuple(FIELD_MAPS)
FIELD_BYTES = {"P8": 128, "F7": 112, "F4": 64, "F3": 48, "F2": 32}


def step_raw_bytes(form: int) -> int:
    return sum(FIELD_BYTES[kind] for kind, _ in FIELD_MAPS[form].raw)


def unit_type(form: int) -> type[np.unsignedinteger]:
    return {1: np.uint8, 2: np.uint16, 4: np.uint32}[FIELD_MAPS[form].unit_bytes]


def words_of_values(form: int, values: np.ndarray) -> np.ndarray:
    """Words (uint32) with nothing but a value."""
    w = FIELD_MAPS[form].unit_bytes
    wide = values.astype(np.uint32)
    return wide >> 7 if w == 1 else wide << (8 * w - 16)


def unit_of_lane(unit_bytes: int) -> np.ndarray:
    """The unit of a step that each of the 128 lanes holds."""
    per_piece = 16 // unit_bytes
    p = np.arange(GROUP_LANES)
    q, k, j = p // 16, p % 16 // per_piece, p % per_piece
    unit = GROUP_LANES // unit_bytes * k + per_piece * q + j
    return np.concatenate([unit, GROUP_LANES + unit])


def all_values(form: int) -> np.ndarray:
    """Every value inside the value mask, ascending."""
    values = np.arange(0x8000, dtype=np.uint16)
    return values[(values & ~np.uint16(FIELD_MAPS[form].value_mask)) == 0]


@dataclass(frozen=True)
class Table:
    frequencies: np.ndarray  # sum to 256
    values: np.ndarray  # uint16; that of the escape symbol is the last and 0
    escape: int

    def __post_init__(self) -> None:
        assert 2 <= len(self.frequencies) == len(self.values) <= 64
        assert self.frequencies.min() >= 1
        assert self.frequencies.sum() == 256
        assert self.escape in (NO_ESCAPE, len(self.values) - 1)

    @property
    def cumulative(self) -> np.ndarray:
        return np.cumsum(self.frequencies) - self.frequencies


def random_table(
    rng: np.random.Generator,
    form: int,
    *,
    n_symbols: int | None = None,
    has_escape: bool | None = None,
    frequencies: list[int] | None = None,
) -> Table:
    """Draw a legal table; what is given stays."""
    if frequencies is not None:
        n_symbols = len(frequencies)
    n_values = len(all_values(form))
    most = min(64, n_values + (has_escape is True))
    n = int(rng.integers(2, most + 1)) if n_symbols is None else n_symbols
    with_escape = bool(rng.integers(2)) if has_escape is None and n <= n_values else has_escape
    with_escape = n > n_values if with_escape is None else with_escape
    if frequencies is None:
        # 256 - n more units of frequency; the cube makes some tables very uneven.
        weights = rng.random(n) ** rng.choice([0, 1, 3, 9])
        drawn = 1 + rng.multinomial(256 - n, weights / weights.sum())
    else:
        drawn = np.array(frequencies)
    values = np.zeros(n, np.uint16)
    values[: n - with_escape] = np.sort(
        rng.choice(all_values(form), n - with_escape, replace=False)
    )
    return Table(drawn, values, n - 1 if with_escape else NO_ESCAPE)


def encode_stream(table: Table, symbols: np.ndarray) -> tuple[np.ndarray, bytes]:
    """Code symbols[step, lane]; return the 128 starting states and the bytes."""
    x = np.full(LANES, 256, np.uint32)
    frequencies = table.frequencies.astype(np.uint32)
    cumulative = table.cumulative.astype(np.uint32)
    pieces = []
    for row in symbols[::-1]:
        f = frequencies[row]
        emits = x >= f << 8
        pieces.append((x[emits] & 255).astype(np.uint8).tobytes())
        x = np.where(emits, x >> 8, x)
        x = (x // f << 8) + x % f + cumulative[row]
    return x, b"".join(reversed(pieces))


def pack_fields(kind: str, fields: np.ndarray) -> bytes:
    """Pack fields[step, lane] as raw field `kind`; the result is step-major."""
    n_steps = len(fields)
    if kind == "P8":
        packed = fields.astype(np.uint8)
    elif kind in ("F7", "F4", "F3"):
        width = int(kind[1])
        bits = fields[:, :, None] >> np.arange(width) & 1
        bits = bits.reshape(n_steps, LANES * width).astype(np.uint8)
        packed = np.packbits(bits, axis=1, bitorder="little")
    else:
        quarters = fields.reshape(n_steps, 2, 4, 16).astype(np.uint8)
        shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
        packed = np.bitwise_or.reduce(quarters << shifts, axis=2).reshape(n_steps, 32)
    assert packed.shape == (n_steps, FIELD_BYTES[kind])
    return packed


def stream_steps(n_steps: int, n_streams: int) -> list[int]:
    return [n_steps // n_streams + (s < n_steps % n_streams) for s in range(n_streams)]


def _pad16(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def random_payload(
    rng: np.random.Generator,
    form: int,
    n_units: int,
    n_streams: int,
    *,
    table: Table | None = None,
    symbols: np.ndarray | None = None,
    flat: bool = False,
) -> tuple[bytes, np.ndarray]:
    """Make a valid payload and the units that it decodes to (uint8, uint16 or uint32).

    `symbols[step, lane]` are drawn with the table's frequencies unless given; `flat` draws every
    symbol alike, so that rare ones (the escape among them) are frequent and the stream long.
    """
    field_map = FIELD_MAPS[form]
    if table is None:
        table = random_table(rng, form)
    n_steps, tail_units = divmod(n_units, LANES)
    n_symbols = len(table.values)
    if symbols is None:
        weights = np.ones(n_symbols) if flat else table.frequencies
        symbols = rng.choice(n_symbols, (n_steps, LANES), p=weights / weights.sum())
    assert symbols.shape == (n_steps, LANES)

    values = table.values[symbols].astype(np.uint32)
    is_escape = symbols == table.escape
    escaped = rng.choice(all_values(form), is_escape.sum()).astype(np.uint32)
    values[is_escape] = escaped

    # Bits that the mask takes away may be anything.
    stored = escaped | rng.integers(0, 1 << 16, escaped.shape, np.uint32) & ~np.uint32(
        field_map.value_mask
    )
    stored = stored >> field_map.escape_shift

    streams, escapes, sizes = [], [], []
    step = 0
    used = 0
    for count in stream_steps(n_steps, n_streams):
        states, data = encode_stream(table, symbols[step : step + count])
        n_escapes = int(is_escape[step : step + count].sum())
        groups = states.reshape(2, 1, GROUP_LANES)
        halves = np.concatenate([groups & 255, groups >> 8], axis=1).astype(np.uint8)
        streams.append(halves.tobytes() + _pad16(data))
        entries = stored[used : used + n_escapes]
        lists = [entries] if field_map.escape_shift else [entries >> 8, entries]
        escapes.append(_pad16(b"".join((x & 255).astype(np.uint8).tobytes() for x in lists)))
        sizes.append((len(data), n_escapes))
        step += count
        used += n_escapes

    words = words_of_values(form, values)
    raw = []
    for kind, bits in field_map.raw:
        fields = rng.integers(0, 1 << len(bits), (n_steps, LANES), np.uint32)
        for i, bit in enumerate(reversed(bits)):
            words |= (fields >> i & 1) << bit
        raw.append(pack_fields(kind, fields))
    raw_bytes = np.concatenate(raw, axis=1).tobytes() if raw and n_steps else b""

    dtype = unit_type(form)
    units = np.empty((n_steps, LANES), dtype)
    units[:, unit_of_lane(field_map.unit_bytes)] = words
    tail = rng.integers(0, 1 << 8 * field_map.unit_bytes, tail_units, np.uint64)
    tail = (tail >> field_map.zero_bits << field_map.zero_bits).astype(dtype)

    head = bytes([n_symbols, table.escape, 0, 0])
    head += np.array(sizes, "<u4").tobytes()
    head += table.frequencies.astype(np.uint8).tobytes() + bytes(n_symbols % 2)
    head += table.values.astype("<u2").tobytes()
    payload = b"".join(
        [_pad16(head), *streams, *escapes, raw_bytes, tail.astype(dtype.__name__).tobytes()]
    )
    return payload, np.concatenate([units.reshape(-1), tail])
