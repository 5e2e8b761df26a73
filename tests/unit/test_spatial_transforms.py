# SPDX-License-Identifier: Apache-2.0
"""The transforms of the spatial coding undo themselves, whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.tools import reference_decoder

from wcodec import _core

TRANSFORMS = {"dct": 1, "adst": 2, "hadamard": 3}
EXTREMES = [-(1 << 31), -(1 << 15), -129, -128, -1, 0, 1, 127, 255, (1 << 15) - 1, (1 << 31) - 1]


def transformed(squares: np.ndarray, transform: int) -> np.ndarray:
    """The transform of squares of 8 x 8, after checking that both decoders undo it."""
    squares = np.ascontiguousarray(squares, np.int32)
    result = squares.copy()
    _core.spatial_transform(result, transform, False)
    again = result.copy()
    _core.spatial_transform(again, transform, True)
    assert (again == squares).all()
    words = result.reshape(-1, 8, 8).view(np.uint32).copy()
    by_reference = reference_decoder().inverse_transform(words, transform)
    assert (by_reference.view(np.int32) == squares.reshape(-1, 8, 8)).all()
    return result


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
class TestReversible:
    def test_every_constant_of_16_bits(self, transform):
        values = np.arange(-(1 << 15), 1 << 15, dtype=np.int32)
        transformed(np.broadcast_to(values[:, None, None], (1 << 16, 8, 8)), transform)

    def test_every_8_bit_value_at_every_place(self, transform):
        squares = np.zeros((64, 256, 64), np.int32)
        for place in range(64):
            squares[place, :, place] = np.arange(-128, 128)
        transformed(squares.reshape(-1, 8, 8), transform)

    def test_every_pair_of_8_bit_values_in_two_rows(self, transform):
        pairs = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)), -1)
        squares = np.zeros((1 << 16, 8, 8), np.int32)
        squares[:, 2, 5], squares[:, 3, 1] = pairs.reshape(-1, 2).T
        transformed(squares, transform)

    def test_extremes_and_noise(self, transform):
        random = np.random.default_rng(transform)
        transformed(random.choice(EXTREMES, (4096, 8, 8)), transform)
        for bits in (8, 16, 32):
            high = 1 << (bits - 1)
            transformed(random.integers(-high, high, (4096, 8, 8)), transform)

    @settings(deadline=None)
    @given(squares=arrays(np.int32, (1, 8, 8), elements=st.integers(-(1 << 31), (1 << 31) - 1)))
    def test_anything(self, transform, squares):
        transformed(squares, transform)


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("bits", [8, 16])
def test_coefficients_keep_the_norm(transform, bits):
    """No number wraps round within 8 bits, nor within 16 but for extremes: 64 numbers below
    2^(bits - 1) give coefficients of at most 8 times that, and rounding.
    """
    high = 1 << (bits - 1)
    random = np.random.default_rng(7)
    noise = (
        random.integers(-high, high, (1000, 8, 8))
        if bits == 8
        else random.normal(0, high / 8, (1000, 8, 8))
    )
    squares = noise.astype(np.int32)
    norms = np.sqrt((squares.astype(float) ** 2).sum((1, 2)))
    found = np.sqrt((transformed(squares, transform).astype(float) ** 2).sum((1, 2)))
    assert np.abs(found / norms - 1).max() < 0.02


def test_a_smooth_square_becomes_small():
    y, x = np.mgrid[:8, :8]
    smooth = (5 * x + 3 * y + (x - 4) ** 2)[None]
    for transform in (TRANSFORMS["dct"], TRANSFORMS["adst"]):
        coefficients = np.abs(transformed(smooth, transform))
        assert np.sort(coefficients, axis=None)[:40].max() <= 2


def test_no_transform_changes_nothing():
    squares = np.arange(128, dtype=np.int32)
    _core.spatial_transform(squares, 0, False)
    assert squares.tolist() == list(range(128))
    for size, transform in ((63, 1), (64, 4)):
        with pytest.raises(ValueError, match=r"8 x 8|transform"):
            _core.spatial_transform(np.zeros(size, np.int32), transform, False)
