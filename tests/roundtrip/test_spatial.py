# SPDX-License-Identifier: Apache-2.0
"""The spatial coding gives every bit back: every predictor, transform, tile size and unit size, by
the core and by the reference decoder.
"""

import io

import numpy as np
import pytest
from support.spatial_blocks import decode, decode_by_reference, encode, smooth, whole

import wcodec
from wcodec.codec import batch

DTYPES = ["i1", "u1", "i2", "u2", "i4", "f2", "f4"]
SHAPES = [
    (1, 1000), (1000, 1), (31, 33), (32, 32), (17, 129), (8, 128), (7, 200), (64, 65), (130, 40),
]  # fmt: skip


def check(array: np.ndarray, **options) -> batch.Blocks:
    blocks = encode(array, **options)
    assert decode(blocks, array).tobytes() == array.tobytes()
    if blocks.headers[0]["coding"] == batch.SPATIAL:
        assert decode_by_reference(blocks, array) == array.tobytes()
    return blocks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile_log2", range(2, 7))
def test_tile_and_unit_sizes(dtype, tile_log2):
    blocks = check(smooth(dtype, 67, 75), tile_log2=tile_log2)
    assert blocks.headers[0]["coding"] == batch.SPATIAL


@pytest.mark.parametrize("predictor", range(6))
@pytest.mark.parametrize("transform", range(4))
@pytest.mark.parametrize("dtype", ["i1", "u2", "i4"])
def test_each_predictor_and_transform(predictor, transform, dtype):
    array = smooth(dtype, 70, 90, seed=predictor)
    check(array, tile_log2=3, predictors=1 << predictor, transforms=1 << transform)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["i1", "i2"])
def test_shapes(shape, dtype):
    for tile_log2 in (2, 4, 6):
        check(smooth(dtype, *shape), tile_log2=tile_log2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_and_hard(dtype):
    kind = np.dtype(dtype)
    for n in (1, 2, 3, 15, 16, 17, 31, 32, 33, 255, 4096):
        noise = np.random.default_rng(n).integers(0, 256, n * kind.itemsize, dtype=np.uint8)
        check(noise.view(kind).reshape(1, n))
        check(noise.view(kind).reshape(n, 1))
    extremes = np.array([0, 1, (1 << 8 * kind.itemsize) - 1, 1 << 8 * kind.itemsize - 1], np.uint64)
    words = np.random.default_rng(1).choice(extremes, (64, 64)).astype(f"u{kind.itemsize}")
    check(words.view(kind))
    assert check(np.full((64, 64), 7, kind)).headers[0]["coding"] == batch.CONSTANT


def test_blocks_of_a_wider_matrix():
    array = smooth("i1", 100, 300)
    descriptors = np.repeat(whole(array), 2)
    descriptors["matrix_offset"] = (0, 128)
    descriptors["cols"] = (128, 172)
    blocks = encode(array, descriptors=descriptors)
    assert (blocks.headers["coding"] == batch.SPATIAL).all()
    assert (decode(blocks, array, descriptors) == array).all()


def test_a_sum_of_rows_and_columns_is_nothing():
    grid = np.add.outer(np.arange(256) // 8 - 128, np.arange(512) // 8).astype(np.int8)
    assert len(check(grid).data) < grid.size // 50


def test_same_bytes_on_every_thread_count():
    array = smooth("i1", 400, 600)
    assert wcodec.encode_array(array, threads=1) == wcodec.encode_array(array, threads=3)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32])
def test_through_the_package(dtype, tmp_path):
    array = smooth(np.dtype(dtype).str[1:], 300, 3 * 5 * 20).reshape(300, 3, 5, 20)
    path = tmp_path / "w.wcodec"
    for options in (
        {},
        {"tile_size": 8},
        {"tile_size": 4, "predictors": ["top", "none"]},
        {"predictors": ["median"], "transforms": ["none", "dct"]},
    ):
        statistics = wcodec.encode_layer_standalone(array, path, **options)
        assert statistics["layers"][0]["coding"] == "spatial"
        assert wcodec.decode_layer_standalone(path).tobytes() == array.tobytes()
        recorded = wcodec.info(path)["options"]
        assert recorded["tile_size"] == options.get("tile_size", 16)
        wanted = options.get("predictors")
        assert recorded.get("predictors") == (wanted and sorted(wanted))
        assert recorded.get("transforms") == options.get("transforms")


def test_ordinary_weights_do_without():
    values = np.random.default_rng(3).normal(0, 30, (512, 512)).clip(-128, 127).astype(np.int8)
    statistics = wcodec.encode_checkpoint({"w": values}, io.BytesIO())
    assert statistics["layers"][0]["coding"] != "spatial"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tile_size": 7}, ValueError, "tile_size is 7"),
        ({"predictors": ["west"]}, ValueError, "predictors has 'west'"),
        ({"predictors": []}, ValueError, "predictors is empty"),
        ({"transforms": ["none", "fft"]}, ValueError, "transforms has 'fft'"),
        ({"transforms": "dct"}, TypeError, "transforms is 'dct'"),
    ],
)
def test_wrong_options(options, error, words):
    with pytest.raises(error, match=words):
        wcodec.encode_array(np.zeros((3, 4), np.int8), **options)
