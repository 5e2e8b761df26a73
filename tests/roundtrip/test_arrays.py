# SPDX-License-Identifier: Apache-2.0
"""Every array comes back bit for bit: dtypes x shapes x patterns, and sizes at the edges of lanes,
steps and blocks.
"""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.arrays import (
    FLOATS,
    WHOLE_BYTE_DTYPES,
    float_patterns,
    gaussian,
    random_bits,
    same_bytes,
)

import wcodec

SHAPES = [(), (0,), (1,), (7,), (0, 3), (5, 0, 2), (1, 1, 1, 1), (128,), (3, 5), (2, 3, 4, 5)]
LARGER_SHAPES = [(1000,), (40, 300), (16, 8, 3, 3), (4, 70, 256), (300, 1025)]
EDGES = [
    *(0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 383, 384, 385),
    *(65535, 65536, 65537, 131071, 131072, 131073, 196607, 196608, 196609, 262144 + 127),
]


def check_roundtrip(array: np.ndarray, **options) -> bytes:
    encoded = wcodec.encode_array(array, **options)
    decoded = wcodec.decode_array(encoded)
    assert same_bytes(decoded, array)
    return encoded


@pytest.mark.parametrize("dtype", WHOLE_BYTE_DTYPES)
@pytest.mark.parametrize("make", [gaussian, random_bits])
def test_dtypes_and_shapes(dtype, make):
    for shape in SHAPES + LARGER_SHAPES:
        check_roundtrip(make(dtype, int(np.prod(shape))).reshape(shape))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", [1, 128, 1000, 5 * 128 + 77, 70_000])
def test_float_patterns(dtype, n):
    for words in float_patterns(dtype, n).values():
        array = words.view(gaussian(dtype, 0).dtype)
        check_roundtrip(array)
        if n % 8 == 0:
            check_roundtrip(array.reshape(8, -1))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", EDGES)
def test_sizes_at_the_edges(dtype, n):
    check_roundtrip(gaussian(dtype, n, seed=n))


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2"])
def test_packed_dtypes(dtype):
    for shape in [(3,), (4, 12), (0, 6), (2, 3, 300)]:
        array = random_bits("U8", int(np.prod(shape))).reshape(shape)
        check_roundtrip(array, dtype=dtype)
    encoded = wcodec.encode_array(np.zeros((4, 6), np.uint8), dtype="F4")
    assert wcodec.decode_array(encoded).shape == (4, 6)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(sorted(FLOATS)),
    shape=st.lists(st.integers(1, 40), min_size=0, max_size=4),
    seed=st.integers(0, 1 << 20),
    share=st.floats(0, 1),
)
def test_mixtures(dtype, shape, seed, share):
    """Part Gaussian, part random bits."""
    n = int(np.prod(shape))
    words = gaussian(dtype, n, seed).view(FLOATS[dtype]).copy()
    at = np.random.default_rng(seed).random(n) < share
    words[at] = random_bits(dtype, n, seed).view(FLOATS[dtype])[at]
    check_roundtrip(words.view(gaussian(dtype, 0).dtype).reshape(shape))


def test_wide_matrix_is_cut_into_column_bands():
    array = gaussian("BF16", 300 * 5000).reshape(300, 5000)
    encoded = check_roundtrip(array)
    assert len(encoded) < array.nbytes / 1.4


@pytest.mark.parametrize("cols", [384, 300])
def test_rows_of_narrow_values(cols):
    """fp16 values, bf16 values, zeros and true float32, row by row, in several blocks."""
    array = gaussian("F32", 1200 * cols).reshape(1200, cols)
    array[::2] = array[::2].astype(np.float16)
    array[1::4] = array[1::4].astype(ml_dtypes.bfloat16)
    array[::16] = 0
    encoded = check_roundtrip(array)
    plain = wcodec.encode_array(gaussian("F32", 1200 * cols).reshape(1200, cols))
    assert len(encoded) < 0.7 * len(plain)


@pytest.mark.parametrize(("narrow", "ratio"), [(np.float16, 2.3), (ml_dtypes.bfloat16, 2.9)])
def test_narrow_tensors(narrow, ratio):
    array = gaussian("F32", 200_000).astype(narrow).astype(np.float32)
    assert array.nbytes / len(check_roundtrip(array)) > ratio
    almost = array.copy()
    almost.view(np.uint32)[100_000] |= 1
    check_roundtrip(almost)


@pytest.mark.parametrize("dtype", WHOLE_BYTE_DTYPES)
def test_constant_tensors_are_small(dtype):
    array = np.full((100, 1000), gaussian(dtype, 1)[0])
    assert len(check_roundtrip(array)) < 1500


def test_arrays_of_any_memory_layout():
    array = gaussian("F32", 60 * 700).reshape(60, 700)
    for view in (array.T, array[::-1], array[::2, 5:], np.asfortranarray(array)):
        decoded = wcodec.decode_array(wcodec.encode_array(view))
        assert same_bytes(decoded, np.ascontiguousarray(view))


def test_out():
    array = gaussian("BF16", 3000).reshape(30, 100)
    encoded = wcodec.encode_array(array)
    out = np.empty_like(array)
    assert wcodec.decode_array(encoded, out=out) is out
    assert same_bytes(out, array)
    for wrong in (np.empty(3000, array.dtype), np.empty((30, 100), np.float16), out.T):
        with pytest.raises(ValueError, match="out is"):
            wcodec.decode_array(encoded, out=wrong)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        wcodec.decode_array(encoded, out=out)


@pytest.mark.parametrize("n", [3000, 300_000])
def test_bytes_of_any_kind(n):
    array = gaussian("BF16", n)
    encoded = wcodec.encode_array(array)
    behind = memoryview(b"xyz" + encoded)[3:]
    for data in (bytearray(encoded), memoryview(encoded), behind, np.frombuffer(encoded, np.uint8)):
        assert same_bytes(wcodec.decode_array(data), array)


def test_foreign_arrays_are_refused():
    with pytest.raises(ValueError, match="byte order"):
        wcodec.encode_array(np.zeros(4, ">f4"))
    with pytest.raises(ValueError, match="no safetensors name"):
        wcodec.encode_array(np.zeros(4, "U3"))
    with pytest.raises(TypeError, match="numpy array"):
        wcodec.encode_array([1, 2, 3])
    with pytest.raises(ValueError, match="bits"):
        wcodec.encode_array(np.zeros(4, np.float32), dtype="F16")
