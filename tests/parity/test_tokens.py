# SPDX-License-Identifier: Apache-2.0
"""Every backend encodes rans32 like the scalar one, and decodes it to the same units or error."""

from collections.abc import Iterator

import numpy as np
import pytest
from support.backends import OTHERS
from support.rans32_blocks import decode, encode

from wcodec import _core
from wcodec.codec import batch
from wcodec.errors import CorruptError

SIZES = [*range(1, 70, 7), *range(95, 98), 160, 1000, 1023, 1024, 1025, 30000]

pytestmark = pytest.mark.skipif(not OTHERS, reason="this machine runs the scalar backend alone")


@pytest.fixture(params=OTHERS)
def backend(request) -> Iterator[str]:
    old = _core.backend()
    yield request.param
    _core.set_backend(old)


def decoded(backend: str, blocks: batch.Blocks, array: np.ndarray) -> bytes | str:
    _core.set_backend(backend)
    try:
        return decode(blocks, array).tobytes()
    except CorruptError as error:
        return str(error)


def encoded_alike(backend: str, array: np.ndarray, **options) -> batch.Blocks:
    _core.set_backend("scalar")
    expected = encode(array, **options)
    _core.set_backend(backend)
    blocks = encode(array, **options)
    assert blocks.data.tobytes() == expected.data.tobytes()
    return blocks


def matrix(n: int, rows: int) -> np.ndarray:
    random = np.random.default_rng(n)
    scale = np.exp2(np.arange(rows) % 4)[:, None]
    values = random.normal(0, 2, (rows, n)) * scale
    return values.clip(-100, 100).astype(np.int8)


@pytest.mark.parametrize("n", SIZES)
def test_sizes(backend, n):
    for array in (matrix(n, 1), matrix(max(1, n // 16), 16)):
        blocks = encoded_alike(backend, array, classes=True)
        assert decoded(backend, blocks, array) == array.tobytes()
        assert decoded("scalar", blocks, array) == array.tobytes()


@pytest.mark.parametrize("n_symbols", [2, 3, 40, 256])
@pytest.mark.parametrize("ratio", [1, 2, 40, 5000])
def test_encoding_of_frequencies(backend, n_symbols, ratio):
    """Symbols that are equally frequent, and each so many times rarer than the one before."""
    random = np.random.default_rng(n_symbols)
    shares = np.maximum((1 / ratio) ** np.arange(n_symbols), 1e-4)
    array = random.choice(n_symbols, (1, 20011), p=shares / shares.sum()).astype(np.uint8)
    encoded_alike(backend, array)


@pytest.mark.parametrize("rows", [1, 16])
def test_hostile_streams(backend, rows):
    array = matrix(4000 // rows, rows)
    blocks = encode(array, classes=True)
    payload = blocks.data.tobytes()[16 : 16 + int(blocks.headers[0]["payload_bytes"])]
    random = np.random.default_rng(rows)
    outcomes = set()
    for _ in range(300):
        changed = np.frombuffer(payload, np.uint8).copy()
        at = random.integers(len(payload) // 8, len(payload), random.integers(1, 4))
        changed[at] = random.choice([0, 255, random.integers(0, 256)])
        hostile = batch.frame_block(batch.RANS32, 0, changed.tobytes())
        expected = decoded("scalar", hostile, array)
        assert decoded(backend, hostile, array) == expected
        outcomes.add(expected if isinstance(expected, str) else "")
    assert len(outcomes) > 1


@pytest.mark.parametrize("zero_bits", [0, 3])
@pytest.mark.parametrize("unit_bytes", [2, 4])
def test_words(backend, unit_bytes, zero_bits):
    """Every number of raw bits, one to five runs of codes, with and without escapes."""
    random = np.random.default_rng(unit_bytes)
    bits = 8 * unit_bytes
    for low_bits in range(1, 15):
        for sign_raw in (False, True):
            code_bits = 16 - low_bits - sign_raw
            if code_bits < 3:
                continue
            n_runs = int(random.integers(1, 6))
            starts = random.integers(0, 1 << code_bits, n_runs)
            codes = (starts[random.integers(0, n_runs, 1003)] + random.integers(0, 3, 1003)) % (
                1 << code_bits
            )
            codes[random.random(1003) < 0.003] = random.integers(0, 1 << code_bits)
            units = random.integers(0, 1 << bits, 1003, dtype=np.uint64)
            shift = bits - sign_raw - code_bits
            units &= np.uint64(~(((1 << code_bits) - 1) << shift) & (1 << bits) - 1)
            units |= codes.astype(np.uint64) << np.uint64(shift)
            units = units >> np.uint64(zero_bits) << np.uint64(zero_bits)
            array = units.astype(f"u{unit_bytes}")[None]
            blocks = encode(array, low_bits, sign_raw=sign_raw)
            assert decoded("scalar", blocks, array) == array.tobytes()
            assert decoded(backend, blocks, array) == array.tobytes()
