# SPDX-License-Identifier: Apache-2.0
"""rans32 gives every bit back: every unit size, split, number of tables and shape, by the core and
by the reference decoder.
"""

import io

import ml_dtypes
import numpy as np
import pytest
from support.rans32_blocks import Payload, as_bytes, decode, decode_by_reference, encode

import wcodec
from wcodec.codec import batch, rans32

SHAPES = [
    (1, 1000), (1000, 1), (7, 8), (8, 8), (8, 31), (31, 33), (32, 32), (17, 129), (1, 511),
    (1, 512), (1, 513), (130, 40),
]  # fmt: skip
BITS = {"i1": "I8", "u1": "U8", "i2": "I16", "f2": "F16", "f4": "F32", "f8": "F64"}


def scaled(dtype: str, rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """Numbers whose scale differs from row to row and from column to column, and any bits at all
    here and there.
    """
    random = np.random.default_rng(seed)
    scale = np.exp2(random.integers(0, 5, (rows, 1)) / 2 + random.integers(0, 4, cols) / 2)
    values = random.normal(0, 3, (rows, cols)) * scale
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bf16" else np.dtype(dtype)
    if kind.kind in "iu":
        result = values.clip(-100, 100).astype(np.int64).astype(kind)
    else:
        result = values.astype(kind)
    flat = as_bytes(result).view(f"u{kind.itemsize}")
    wild = random.random(flat.size) < 0.002
    flat[wild] = random.integers(0, 1 << 8 * kind.itemsize, wild.sum(), dtype=np.uint64)
    return flat.view(kind).reshape(rows, cols)


def check(array: np.ndarray, low_bits: int = 0, **options) -> batch.Blocks:
    blocks = encode(array, low_bits, **options)
    assert decode(blocks, array).tobytes() == array.tobytes()
    if blocks.headers[0]["coding"] == batch.RANS32:
        assert decode_by_reference(blocks, array) == array.tobytes()
    return blocks


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "f2", "bf16", "f4", "f8"])
def test_splits(dtype, classes):
    name = BITS.get(dtype, "BF16")
    array = scaled(dtype, 60, 70)
    n_coded = 0
    for bit in range(32):
        if not rans32.splits(name, True) >> bit & 1:
            continue
        options = {"sign_raw": bit >= 16, "exponent_bits": rans32.exponent_bits(name)}
        blocks = check(array, bit % 16, classes=classes, **options)
        n_coded += blocks.headers[0]["coding"] == batch.RANS32
    assert n_coded > 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["i1", "f4"])
def test_shapes(dtype, shape):
    array = scaled(dtype, *shape)
    if dtype == "i1":
        check(array // 8, classes=True)
    else:
        check(array, 5, sign_raw=True, exponent_bits=8, classes=True)


def test_classes_are_found():
    random = np.random.default_rng(2)
    scale = np.exp2(np.arange(200) % 4)[:, None] * np.exp2(np.arange(300) % 3)
    for rows, cols in ((1, 0), (0, 1), (1, 1)):
        own = (scale[:, :1] if rows else 1) * (scale[:1] if cols else 1)
        array = (random.normal(0, 2, (200, 300)) * own).clip(-127, 127).astype(np.int8)
        payload = Payload.of(check(array, classes=True), 1)
        assert payload.classes == rows | cols << 1
        assert payload.n_tables > 2
        assert len(check(array, classes=True).data) < 0.97 * len(check(array).data)


def test_alphabets():
    random = np.random.default_rng(3)
    one = np.full((20, 50), 7, np.int16)
    one[3, 4] = 8
    assert Payload.of(check(one, 0), 2).escape == 0
    far = one.copy()
    far[random.random(far.shape) < 0.01] = 20000
    assert Payload.of(check(far, 0), 2).n_runs == 2
    wide = random.integers(0, 40, (400, 500)).astype(np.int16)
    wide[::40] = random.integers(0, 1 << 15, (10, 500))
    payload = Payload.of(check(wide, 0), 2)
    assert payload.escape == 1
    assert payload.n_escapes > 4000
    every = np.arange(65536, dtype=np.uint8).reshape(256, 256) // 2 * 2
    every[0, 1::2] = np.arange(1, 256, 2)
    check(every)
    steps = random.normal(0, 5, (100, 200)).astype(np.float32)
    steps.view(np.uint32)[:] &= 0xFFFFE000
    payload = Payload.of(check(steps, 5, sign_raw=True, exponent_bits=8), 4)
    assert payload.zero_bits == 13


def test_blocks_of_a_wider_matrix():
    array = scaled("i1", 100, 300) // 16
    descriptors = np.zeros(2, batch.DESCRIPTOR)
    descriptors["row_stride"] = 300
    descriptors["row_index_first"] = batch.NO_ROW_INDEX
    descriptors["matrix_offset"] = [0, 128]
    descriptors["rows"], descriptors["cols"] = 100, [128, 172]
    blocks = encode(array, descriptors=descriptors, classes=True)
    assert (blocks.headers["coding"] == batch.RANS32).all()
    assert decode(blocks, array, descriptors).tobytes() == array.tobytes()


def test_noise_is_left_alone():
    noise = np.random.default_rng(4).integers(0, 256, (256, 256)).astype(np.uint8)
    assert check(noise, classes=True).headers[0]["coding"] == batch.RAW


@pytest.mark.parametrize("level", wcodec.LEVELS)
@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, ml_dtypes.float8_e4m3fn, np.float64]
)
def test_through_the_package(dtype, level, tmp_path):
    random = np.random.default_rng(5)
    array = random.normal(0, 1.5, (300, 5, 40))
    array = np.rint(array).astype(dtype) if np.dtype(dtype).kind in "iu" else array.astype(dtype)
    path = tmp_path / "w.wcodec"
    statistics = wcodec.encode_layer_standalone(array, path, level=level)
    if level == "max" or dtype is np.int8:
        assert statistics["layers"][0]["coding"] == "rans32"
    assert wcodec.decode_layer_standalone(path).tobytes() == array.tobytes()
    assert wcodec.info(path)["options"]["level"] == level


def test_same_bytes_on_every_thread_count():
    array = scaled("bf16", 400, 600)
    options = {"level": "max"}
    assert wcodec.encode_array(array, threads=1, **options) == wcodec.encode_array(
        array, threads=3, **options
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_max_is_smaller(dtype):
    random = np.random.default_rng(6)
    scale = np.exp2(random.integers(0, 2, (300, 1)))
    array = (random.normal(0, 0.02, (300, 700)) * scale).astype(dtype)
    array[::3] = array[::3].astype(np.float16).astype(dtype)  # row groups
    sizes = {}
    for level in wcodec.LEVELS:
        file = io.BytesIO()
        wcodec.encode_checkpoint({"w": array}, file, level=level)
        sizes[level] = len(file.getvalue())
        file.seek(0)
        assert wcodec.decode_checkpoint(file)["w"].tobytes() == array.tobytes()
    assert sizes["max"] < 0.995 * sizes["default"]
