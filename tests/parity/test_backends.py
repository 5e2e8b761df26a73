# SPDX-License-Identifier: Apache-2.0
"""All backends write the same blocks and read them alike: bytes, statuses, and nothing touched that
is not theirs.

Each backend is compared with the scalar one, so any two are compared. Decoding runs over random
legal payloads that the encoder would never write, and over hostile ones under a good CRC.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from support.arrays import FLOATS, float_patterns
from support.backends import OTHERS
from support.guarded import GuardedMemory
from support.rans16_streams import (
    FIELD_MAPS,
    LANES,
    Table,
    all_values,
    random_payload,
    random_table,
    unit_type,
    words_of_values,
)

from wcodec import _core
from wcodec.block_header import BLOCK_HEADER
from wcodec.codec import batch

FORM_SETS = {"BF16": batch.BF16_FORMS, "F16": batch.FP16_FORMS, "F32": batch.FP32_FORMS}
FILL = 0xA5
SIZES = [*range(126, 131), 255, 256, 257, 383, 512, 640, 1000, 128 * 21 + 127, 128 * 64 + 1]

pytestmark = pytest.mark.skipif(not OTHERS, reason="this machine runs the scalar backend alone")


@pytest.fixture(params=OTHERS)
def backend(request) -> Iterator[str]:
    """Each backend but the scalar one; the old one is in use again after the test."""
    old = _core.backend()
    yield request.param
    _core.set_backend(old)


def descriptor(rows: int, cols: int, w: int, *, offset: int = 0, stride: int | None = None):
    block = np.zeros(1, batch.DESCRIPTOR)
    block["matrix_offset"] = offset
    block["row_stride"] = cols * w if stride is None else stride
    block["rows"], block["cols"] = rows, cols
    block["row_index_first"] = batch.NO_ROW_INDEX
    return block


def header_of(payload: bytes, form: int, n_streams: int) -> np.ndarray:
    header = np.zeros(1, BLOCK_HEADER)
    header["coding"], header["form"], header["n_streams"] = batch.RANS16, form, n_streams
    header["payload_bytes"] = len(payload)
    header["crc"] = zlib.crc32(header.tobytes()[4:] + padded(payload))
    return header


def padded(payload: bytes) -> bytes:
    return payload + bytes(-len(payload) % 16)


class Decoding:
    """Buffers for decoding one block with every backend.

    Slack and output are filled with what no decoder may depend on. The block and its slack end
    before a page that cannot be touched, or begin after one; so does the output.
    """

    def __init__(self, max_bytes: int) -> None:
        self.block = GuardedMemory(max_bytes)
        self.out = GuardedMemory(max_bytes)
        self.random = np.random.default_rng(7)

    def run(
        self, backend: str, payload: bytes, header: np.ndarray, place: np.ndarray, w: int, size: int
    ) -> tuple[list[tuple[int, int]], bytes]:
        """Failures and the whole matrix of `size` bytes."""
        _core.set_backend(backend)
        block = header.tobytes() + padded(payload)
        results = []
        for memory_of in ("at_end", "at_begin"):
            data = getattr(self.block, memory_of)(len(block) + batch.READ_SLACK_BYTES)
            data[: len(block)] = np.frombuffer(block, np.uint8)
            data[len(block) :] = self.random.integers(0, 256, batch.READ_SLACK_BYTES)
            matrix = getattr(self.out, memory_of)(size)
            matrix[:] = FILL
            failures = _core.decode_blocks(
                data, header, batch.RANS16, place, batch.NO_ROWS, matrix, w, 1
            )
            results.append((failures, matrix.tobytes()))
        assert results[0] == results[1]
        return results[0]


DECODING = Decoding(1 << 20)


def check_alike(backend: str, payload: bytes, form: int, n_streams: int, n: int) -> bool:
    """Decode with both backends; whether they accepted the payload."""
    w = FIELD_MAPS[form].unit_bytes
    header = header_of(payload, form, n_streams)
    place = descriptor(1, n, w)
    expected = DECODING.run("scalar", payload, header, place, w, n * w)
    assert DECODING.run(backend, payload, header, place, w, n * w) == expected
    return not expected[0]


def check_legal(backend: str, payload: bytes, units: np.ndarray, form: int, n_streams: int) -> None:
    w = FIELD_MAPS[form].unit_bytes
    header = header_of(payload, form, n_streams)
    place = descriptor(1, len(units), w)
    decoded = DECODING.run(backend, payload, header, place, w, len(units) * w)
    assert decoded == ([], units.tobytes())


# ---- decoding ----


@pytest.mark.parametrize("form", FIELD_MAPS)
@pytest.mark.parametrize("n_streams", [1, 2, 4])
def test_legal_payloads(backend, form, n_streams):
    random = np.random.default_rng(10 * form + n_streams)
    for n in SIZES:
        for flat in (False, True):
            payload, units = random_payload(random, form, n, n_streams, flat=flat)
            check_legal(backend, payload, units, form, n_streams)


@pytest.mark.parametrize("form", FIELD_MAPS)
def test_every_frequency(backend, form):
    random = np.random.default_rng(20 + form)
    for frequency in range(1, 256):
        rest = 256 - frequency
        frequencies = [frequency, rest] if rest < 256 else [frequency]
        table = random_table(random, form, frequencies=frequencies)
        payload, units = random_payload(random, form, 128 * 6, 2, table=table, flat=True)
        check_legal(backend, payload, units, form, 2)


@pytest.mark.parametrize("form", FIELD_MAPS)
def test_64_symbols_and_every_value(backend, form):
    random = np.random.default_rng(30 + form)
    for has_escape in (False, True):
        n_symbols = min(64, len(all_values(form)) + has_escape)
        table = random_table(random, form, n_symbols=n_symbols, has_escape=has_escape)
        payload, units = random_payload(random, form, 128 * 30, 2, table=table, flat=True)
        check_legal(backend, payload, units, form, 2)
    values = all_values(form)
    table = Table(np.array([100, 156]), np.array([values[-1], 0], np.uint16), 1)
    payload, units = random_payload(random, form, 128 * 50, 1, table=table)
    check_legal(backend, payload, units, form, 1)


@pytest.mark.parametrize("form", FIELD_MAPS)
def test_an_escape_in_every_lane(backend, form):
    random = np.random.default_rng(40 + form)
    table = random_table(random, form, n_symbols=9, has_escape=True)
    one_each = np.where(np.eye(LANES, dtype=bool), 8, random.integers(0, 8, (LANES, LANES)))
    all_at_once = np.full((3, LANES), 8)
    for symbols in (one_each, all_at_once):
        for n_streams in (1, 2, 4):
            payload, units = random_payload(
                random, form, symbols.size, n_streams, table=table, symbols=symbols
            )
            check_legal(backend, payload, units, form, n_streams)


@pytest.mark.parametrize("form", FIELD_MAPS)
@pytest.mark.parametrize("n_streams", [1, 2, 4])
def test_hostile_payloads(backend, form, n_streams):
    random = np.random.default_rng(50 + form)
    accepted = refused = 0
    for n in (128, 128 * 4, 128 * 9 + 5):
        payload, _ = random_payload(random, form, n, n_streams, flat=True)
        places = [*range(min(len(payload), 140)), *random.integers(0, len(payload), 150).tolist()]
        for at in places:
            mutated = bytearray(payload)
            mutated[at] ^= int(random.integers(1, 256))
            ok = check_alike(backend, bytes(mutated), form, n_streams, n)
            accepted, refused = accepted + ok, refused + (not ok)
    # Without raw fields nearly every byte says something of the others.
    assert accepted > (20 if FIELD_MAPS[form].raw else 0)
    assert refused > 100


@pytest.mark.parametrize("form", FIELD_MAPS)
def test_streams_that_ask_for_more_than_they_have(backend, form):
    """Fewer or more bytes and escapes than due: sizes that agree with each other, streams that lie.

    Such a stream is found out at its end only, so every step of it is decoded.
    """
    random = np.random.default_rng(60 + form)
    lists = 1 if FIELD_MAPS[form].escape_shift else 2
    for n_streams in (1, 2, 4):
        for _ in range(40):
            n_steps = int(random.integers(n_streams, 12))
            table = random_table(random, form, has_escape=True)
            parts = [random.integers(0, 256, 0, np.uint8).tobytes()]
            sizes = []
            streams, escapes = b"", b""
            for s in range(n_streams):
                steps = n_steps // n_streams + (s < n_steps % n_streams)
                n_bytes, n_escapes = (int(x) for x in random.integers(0, 128 * steps + 1, 2))
                if random.integers(2):
                    n_bytes, n_escapes = n_bytes % 150 % (128 * steps), n_escapes % 3
                states = random.integers(1, 256, 256, np.uint8).tobytes()
                streams += states + padded(random.bytes(n_bytes))
                escapes += padded(random.bytes(n_escapes * lists))
                sizes.append((n_bytes, n_escapes))
            parts = [
                padded(
                    bytes([len(table.values), table.escape, 0, 0])
                    + np.array(sizes, "<u4").tobytes()
                    + table.frequencies.astype(np.uint8).tobytes()
                    + bytes(len(table.values) % 2)
                    + table.values.astype("<u2").tobytes()
                ),
                streams,
                escapes,
                random.bytes(n_steps * int(_core.field_map(form)["step_bytes"])),
            ]
            check_alike(backend, b"".join(parts), form, n_streams, n_steps * LANES)


@pytest.mark.parametrize("form", FIELD_MAPS)
@pytest.mark.parametrize("cols", [100, 128, 256, 384])
def test_strided_and_unaligned_targets(backend, form, cols):
    """A block in the middle of a matrix: what lies between its rows stays."""
    random = np.random.default_rng(70 + form)
    w = FIELD_MAPS[form].unit_bytes
    rows = 7
    payload, units = random_payload(random, form, rows * cols, 2)
    header = header_of(payload, form, 2)
    for offset, gap in ((0, 64), (64, 128), (w, w), (3, 5), (17, 0)):
        stride = cols * w + gap
        place = descriptor(rows, cols, w, offset=offset, stride=stride)
        size = offset + (rows - 1) * stride + cols * w
        expected = np.full(size, FILL, np.uint8)
        for r in range(rows):
            at = offset + r * stride
            expected[at : at + cols * w] = units[r * cols : (r + 1) * cols].view(np.uint8)
        assert DECODING.run(backend, payload, header, place, w, size) == ([], expected.tobytes())


@pytest.mark.parametrize("form", FIELD_MAPS)
def test_large_outputs(backend, form):
    """Outputs that a backend may write past the caches, aligned and not."""
    random = np.random.default_rng(80 + form)
    w = FIELD_MAPS[form].unit_bytes
    cols, n_blocks = 128 * 9, 16
    payload, units = random_payload(random, form, 4 * cols, 4)
    block = np.frombuffer(header_of(payload, form, 4).tobytes() + padded(payload), np.uint8)
    data = np.concatenate([block, np.zeros(batch.READ_SLACK_BYTES, np.uint8)])
    headers = np.repeat(header_of(payload, form, 4), n_blocks)
    # The same block many times over, 4 rows of it on top of each other's columns.
    repeats = (9 << 20) // (4 * cols * w * n_blocks) + 1
    stride = cols * n_blocks * w
    places = np.repeat(descriptor(4, cols, w, stride=stride), n_blocks * repeats)
    index = np.arange(n_blocks * repeats)
    places["matrix_offset"] = index // n_blocks * 4 * stride + index % n_blocks * cols * w
    memory = np.empty(repeats * 4 * stride + 128, np.uint8)
    rows = units.view(np.uint8).reshape(4, cols * w)
    expected = np.tile(rows, (repeats, n_blocks)).reshape(-1)
    _core.set_backend(backend)
    for shift in (0, 16, 1):
        start = -memory.ctypes.data % 64 + shift
        memory[:] = FILL
        matrix = memory[start : start + len(expected)]
        failures = _core.decode_blocks(
            data,
            np.repeat(headers[:1], len(places)),
            batch.RANS16,
            places,
            batch.NO_ROWS,
            matrix,
            w,
            2,
        )
        assert failures == []
        assert np.array_equal(matrix, expected)
        assert (memory[:start] == FILL).all()
        assert (memory[start + len(expected) :] == FILL).all()


# ---- encoding ----


def encode(backend: str, words: np.ndarray, form_set: int, n_streams: int, shift: int):
    """Header and bytes of one block. The words lie `shift` bytes off any alignment and end before
    a page that cannot be touched."""
    _core.set_backend(backend)
    w = words.itemsize
    source = ENCODING.at_end(words.nbytes + shift)[: words.nbytes]
    source[:] = words.view(np.uint8)
    room = 16 + (words.nbytes + 15) // 16 * 16
    data = np.full(room, FILL, np.uint8)
    header = np.zeros(1, BLOCK_HEADER)
    size, failures = _core.encode_blocks(
        source,
        w,
        descriptor(1, len(words), w),
        batch.NO_ROWS,
        data,
        header,
        batch.RANS16,
        form_set,
        n_streams,
        (0, 0, 0, 0),
        (0, False),
        True,
        1,
    )
    assert failures == []
    return header.tobytes(), data[:size].tobytes()


ENCODING = GuardedMemory(1 << 20)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_streams", [1, 2, 4])
def test_encoding_of_patterns(backend, dtype, n_streams):
    forms = [form for form in FIELD_MAPS if FORM_SETS[dtype] >> form & 1]
    n_rans16 = 0
    for n in (1, 2, 63, 127, 128, 512, 1000, 128 * 21 + 127, 30_000, 32_768 + 77):
        for words in float_patterns(dtype, n).values():
            for form_set in (FORM_SETS[dtype], *(1 << form for form in forms[:2])):
                for shift in (0, 1):
                    expected = encode("scalar", words, form_set, n_streams, shift)
                    assert encode(backend, words, form_set, n_streams, shift) == expected
                    n_rans16 += expected[0][4] == batch.RANS16
    assert n_rans16 > 50


@pytest.mark.parametrize("form", FIELD_MAPS)
def test_encoding_of_any_values(backend, form):
    """Words of random legal payloads: other alphabets and frequencies than floats have."""
    random = np.random.default_rng(90 + form)
    n_rans16 = 0
    for _ in range(80):
        n = int(random.integers(1500, 6000))
        _, units = random_payload(random, form, n, 1, table=random_table(random, form))
        expected = encode("scalar", units, 1 << form, 1, 0)
        assert encode(backend, units, 1 << form, 1, 0) == expected
        n_rans16 += expected[0][4] == batch.RANS16
    assert n_rans16 > 10


@pytest.mark.parametrize("form", FIELD_MAPS)
def test_encoding_with_every_frequency(backend, form):
    """Two values, the first in f of 256 words: every frequency that a table can have."""
    random = np.random.default_rng(100 + form)
    values = all_values(form)
    for frequency in range(1, 256):
        pair = random.choice(values, 2, replace=False)
        pair = words_of_values(form, pair).astype(unit_type(form))
        words = pair[(np.arange(128 * 10) % 256 >= frequency).astype(int)]
        words = random.permutation(words)
        assert encode(backend, words, 1 << form, 1, 0) == encode("scalar", words, 1 << form, 1, 0)


@pytest.mark.parametrize("form", FIELD_MAPS)
@pytest.mark.parametrize("n_streams", [1, 2, 4])
def test_encoding_of_escapes_in_every_lane(backend, form, n_streams):
    """Steps of nothing but escapes, most of a stream's units, and single ones in each lane."""
    random = np.random.default_rng(110 + form)
    values = words_of_values(form, all_values(form)).astype(unit_type(form))
    n = 128 * 64
    n_rans16 = 0
    for share in (3, 6, 9):
        words = np.full(n, values[-1])
        words[: n // share] = random.choice(values, n // share)
        words[-LANES * LANES // 2 :: LANES + 1] = random.choice(values, LANES // 2)
        expected = encode("scalar", words, 1 << form, n_streams, 0)
        assert encode(backend, words, 1 << form, n_streams, 0) == expected
        n_rans16 += expected[0][4] == batch.RANS16
    assert n_rans16 > 0


@pytest.mark.parametrize("dtype", FLOATS)
def test_encoding_where_codes_change(backend, dtype):
    """Codes at both ends of their range, apart from each other, and others behind the first words
    than among them: whatever a backend takes from the beginning of a block for its counting.
    """
    random = np.random.default_rng(120)
    w = {"BF16": 2, "F16": 2, "F32": 4}[dtype]
    word = np.uint16 if w == 2 else np.uint32
    n_rans16 = 0
    for begin, end, other in ((0, 9, 300), (503, 512, 3), (470, 512, 0), (200, 240, 511)):
        for n_before, n_other in ((1024, 0), (1024, 1), (1500, 40), (9000, 3000), (40, 1000)):
            codes = random.integers(begin, end, 20_000)
            places = random.integers(n_before, len(codes), n_other)
            codes[places] = np.where(places % 2, other, random.integers(0, 512, n_other))
            low = random.integers(0, 1 << (8 * w - 10), len(codes))
            signs = random.integers(0, 2, len(codes)) << (8 * w - 1)
            words = (signs | codes << (8 * w - 10) | low).astype(word)
            for size in (20_000, 8193, 1055, 1024):
                expected = encode("scalar", words[:size], FORM_SETS[dtype], 2, 0)
                assert encode(backend, words[:size], FORM_SETS[dtype], 2, 0) == expected
                n_rans16 += expected[0][4] == batch.RANS16
    assert n_rans16 > 30


@pytest.mark.parametrize("backend", [name for name in _core.backends() if name != "scalar"])
def test_crc32(backend):
    old = _core.backend()
    random = np.random.default_rng(5)
    data = random.bytes(5000)
    for size in [*range(1300), *random.integers(1300, 5000, 50).tolist()]:
        begin = int(random.integers(0, 65)) % (5000 - size + 1)
        start = int(random.integers(0, 1 << 32)) if size % 2 else 0
        memory = ENCODING.at_end(size)
        memory[:] = np.frombuffer(data[begin : begin + size], np.uint8)
        _core.set_backend(backend)
        found = _core.crc32(memory, start)
        _core.set_backend(old)
        assert found == zlib.crc32(data[begin : begin + size], start)


# ---- the choice ----


def test_the_environment_forces_a_backend(backend):
    for name in (backend, "scalar"):
        done = subprocess.run(
            [sys.executable, "-c", "from wcodec import _core; print(_core.backend())"],
            env={**os.environ, "WCODEC_BACKEND": name},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == name


def test_choosing(backend):
    _core.set_backend(backend)
    assert _core.backend() == backend
    for name in ("abacus", "", backend.upper(), backend + " "):
        with pytest.raises(ValueError, match="scalar"):
            _core.set_backend(name)
    assert _core.backend() == backend
