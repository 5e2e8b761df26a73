# SPDX-License-Identifier: Apache-2.0
"""Which coding the encoder plans for layers of floats, that are usual ones or not."""

import numpy as np
import pytest
from support.arrays import gaussian

from wcodec.codec import batch
from wcodec.codec.coding import Plan, encode_window
from wcodec.codec.plan import (
    BLOCK_ELEMENTS,
    LEVELS,
    TRIAL_BYTES,
    estimate_codings,
    plan_layer,
)
from wcodec.codec.spatial import SpatialOptions
from wcodec.dtypes import dtype_name

FLOATS = ("F32", "BF16", "F16")


def of(function, dtype: str, array: np.ndarray, level: str = "default"):
    """What a function that takes what plan_layer() does says of an array."""
    data = array.reshape(-1).view(np.uint8)
    block_elements = BLOCK_ELEMENTS[level]
    return function(dtype, array.shape, len(data), data, level, block_elements, SpatialOptions())


def planned(*arguments) -> Plan:
    return plan_layer(*arguments)[0]


def weights(dtype: str, rows: int = 512) -> np.ndarray:
    return gaussian(dtype, 256 * rows).reshape(rows, 256)


@pytest.mark.parametrize("dtype", FLOATS)
def test_usual_floats_take_rans16(dtype):
    assert of(planned, dtype, weights(dtype)).family == batch.RANS16
    sizes = of(estimate_codings, dtype, weights(dtype))
    assert sizes.keys() == {batch.RAW, batch.RANS16, batch.RANS32, batch.LZ}
    assert 49 * sizes[batch.RANS16] < 50 * sizes[batch.RANS32] < 50 * sizes[batch.RANS16]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axis", [0, 1])
def test_lines_of_different_scales_take_rans32(dtype, axis):
    scales = np.exp2(np.arange(512 if axis == 0 else 256) % 7)
    array = (weights("F32") * np.expand_dims(scales, 1 - axis) / 64).astype(weights(dtype).dtype)
    plan = of(planned, dtype, array)
    assert (plan.family, plan.rans32[1]) == (batch.RANS32, True)


@pytest.mark.parametrize(("rows", "family"), [(8, batch.RANS16), (400, batch.RANS32)])
def test_small_layers_take_what_is_smallest(rows, family):
    assert of(planned, "BF16", weights("BF16", rows)).family == family


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_without_a_sign_take_rans32(dtype):
    squares = (np.square(weights("F32")) * 64).astype(weights(dtype).dtype)
    assert of(planned, dtype, squares).family == batch.RANS32
    squares[::7] = -squares[::7]
    assert of(planned, dtype, squares).family == batch.RANS16


@pytest.mark.parametrize("dtype", FLOATS)
def test_repeated_rows_take_lz(dtype):
    rows = np.tile(weights(dtype, 20), (32, 1))
    for level in LEVELS:
        assert of(planned, dtype, rows, level).family == batch.LZ


def test_a_few_equal_rows_change_nothing():
    rows = weights("F32")
    rows[5:8] = 0
    assert of(planned, "F32", rows).family == batch.RANS16


@pytest.mark.parametrize(
    ("dtype", "n", "n_streams"),
    [("BF16", 0xFFF, 1), ("BF16", 0x20000, 2), ("I8", 0x3FFFFF, 1), ("I8", 0x400000, 2)],
)
def test_small_layers_have_one_stream_a_block(dtype, n, n_streams):
    array = gaussian(dtype, n)
    if dtype == "I8":
        array = np.clip(np.rint(gaussian("F32", n) * 2000), -127, 127).astype(np.int8)
    plan = of(planned, dtype, array)
    assert (plan.family, plan.n_streams) == (batch.RANS16, n_streams)


@pytest.mark.parametrize(
    ("array", "family"),
    [
        (weights("F32", 400), batch.RANS16),
        (weights("BF16", 400), batch.RANS32),
        (np.tile(weights("F32", 20), (20, 1)), batch.LZ),
        (np.add.outer(np.arange(300), np.arange(200)).astype(np.int16), batch.SPATIAL),
    ],
)
def test_the_blocks_of_a_trial_of_all_are_those_of_the_plan(array, family):
    plan, parts = of(plan_layer, dtype_name(array.dtype), array)
    assert plan.family == family
    data = array.reshape(-1).view(np.uint8)
    (window,) = plan.grid.windows(len(data))
    encoded = encode_window(plan, window, data, verify=True, threads=2)
    assert [(part.headers.tobytes(), part.data.tobytes()) for part in parts] == [
        (part.headers.tobytes(), part.data.tobytes()) for part in encoded
    ]


def test_a_trial_of_a_part_gives_no_blocks():
    squares = np.square(weights("F32", 1024))
    assert squares.nbytes > TRIAL_BYTES
    plan, parts = of(plan_layer, "F32", squares)
    assert (plan.family, parts) == (batch.RANS32, [])
