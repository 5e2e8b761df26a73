# SPDX-License-Identifier: Apache-2.0
"""Weights of 4 bits as checkpoints hold them, packed into wider integers: they come back, and take
little more than the entropy of their numbers.
"""

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

import wcodec

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which of 8 columns is in which half byte, the lowest first
NF4 = np.array([-1, -0.696, -0.525, -0.395, -0.284, -0.185, -0.091, 0, 0.08, 0.161, 0.246, 0.338,
                0.441, 0.563, 0.723, 1])  # fmt: skip
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def weights() -> np.ndarray:
    """A matrix with heavier tails than a normal distribution has, as trained ones do."""
    random = np.random.default_rng(4)
    return (random.standard_t(6, (1024, 1024)) * 0.03).astype(np.float32)


def in_groups(values: np.ndarray, size: int) -> np.ndarray:
    """Groups of `size` along a row, the largest magnitude of each being 1."""
    groups = values.reshape(-1, size)
    return groups / np.abs(groups).max(1, keepdims=True)


def int4(values: np.ndarray) -> np.ndarray:
    """Codes 1 to 15, 8 being zero, scaled by groups of 128 along a row."""
    codes = np.rint(in_groups(values, 128) * 7) + 8
    return codes.astype(np.uint32).reshape(values.shape)


def gptq(codes: np.ndarray) -> np.ndarray:
    """Inputs / 8 x outputs: eight inputs in a number."""
    return sum(codes.T[i::8] << np.uint32(4 * i) for i in range(8)).view(np.int32)


def awq(codes: np.ndarray) -> np.ndarray:
    """Inputs x outputs / 8."""
    parts = (codes.T[:, first::8] << np.uint32(4 * i) for i, first in enumerate(AWQ_ORDER))
    return np.ascontiguousarray(sum(parts)).view(np.int32)


def pairs(codes: np.ndarray) -> np.ndarray:
    return (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)


def nf4(values: np.ndarray) -> np.ndarray:
    nearest = np.searchsorted((NF4[1:] + NF4[:-1]) / 2, in_groups(values, 64))
    return nearest.reshape(values.shape)


def mxfp4(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes with the sign in the highest bit, and the exponent of each group of 32."""
    groups = values.reshape(-1, 32)
    exponents = np.floor(np.log2(np.abs(groups).max(1, keepdims=True))) - 2
    magnitudes = np.searchsorted((E2M1[1:] + E2M1[:-1]) / 2, np.abs(groups) / np.exp2(exponents))
    codes = (magnitudes | (groups < 0) << 3).reshape(values.shape)
    return codes, (exponents + 127).astype(np.uint8).reshape(len(values), -1)


# What is stored of a matrix, and the numbers in it.
LAYOUTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]]
LAYOUTS = {
    "gptq": (lambda w: gptq(int4(w)), int4),
    "gptq as U32": (lambda w: gptq(int4(w)).view(np.uint32), int4),
    "awq": (lambda w: awq(int4(w)), int4),
    "int4 in I64": (lambda w: awq(int4(w)).view(np.int64), int4),
    "int4 in I16": (lambda w: awq(int4(w)).view(np.int16), int4),
    "int4 in U8": (lambda w: pairs(int4(w)), int4),
    "nf4": (lambda w: pairs(nf4(w)).reshape(-1, 1), nf4),
    "mxfp4": (lambda w: pairs(mxfp4(w)[0]), lambda w: mxfp4(w)[0]),
    "F4": (lambda w: pairs(mxfp4(w)[0]), lambda w: mxfp4(w)[0]),
    "E8M0 scales in U8": (lambda w: mxfp4(w)[1], lambda w: mxfp4(w)[1]),
    "E8M0 scales": (
        lambda w: mxfp4(w)[1].view(ml_dtypes.float8_e8m0fnu),
        lambda w: mxfp4(w)[1],
    ),
}


def entropy_ratio(numbers: np.ndarray, bits: int) -> float:
    """How much smaller numbers of so many bits become by the entropy of their distribution."""
    counts = np.bincount(numbers.reshape(-1))
    shares = counts[counts > 0] / numbers.size
    return bits / -float((shares * np.log2(shares)).sum())


def encoded(array: np.ndarray, level: str, dtype: str | None = None) -> float:
    """The ratio of the array, without what a file takes that holds nothing; after a round trip."""
    file, empty = (
        wcodec.encode_array(part, level=level, dtype=dtype) for part in (array, array[:0])
    )
    assert wcodec.decode_array(file).tobytes() == array.tobytes()
    return array.nbytes / (len(file) - len(empty))


@pytest.mark.parametrize(("level", "share"), [("default", 0.99), ("max", 0.995)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_numbers_take_little_more_than_their_entropy(layout, level, share):
    stored, numbers = (make(weights()) for make in LAYOUTS[layout])
    dtype = "F4" if layout == "F4" else None
    if layout.startswith("E8M0"):  # 32 KiB: states and tables count
        expected = (share - 0.06) * entropy_ratio(numbers, 8)
    else:
        expected = share * entropy_ratio(numbers, 4)
    assert encoded(stored, level, dtype) >= expected


@pytest.mark.parametrize("layout", ["gptq", "awq", "int4 in I64", "int4 in U8"])
def test_int4_in_groups_of_128_reaches_1_20(layout):
    stored = LAYOUTS[layout][0](weights())
    assert encoded(stored, "max") >= 1.2
    assert encoded(stored, "default") >= 1.2


DOUBLES = weights().astype(np.float64) * np.pi


@pytest.mark.parametrize(
    ("array", "default", "max"),
    [
        (DOUBLES, 1.12, 1.12),
        (weights().astype(np.float64), 2.3, 2.3),
        (weights()[:, ::2] + 1j * weights()[:, 1::2], 1.18, 1.19),
        (np.arange(50_000) % 512, 50, 50),
        (np.random.default_rng(1).integers(0, 30_000, 200_000), 4.1, 4.1),
        (np.random.default_rng(1).normal(0, 30, 300_000).astype(np.int32), 3, 3),
        (np.random.default_rng(1).normal(9000, 30, 300_000).astype(np.uint16), 2, 2),
        (np.random.default_rng(1).random(500_000) < 0.1, 16, 16),
    ],
    ids=["F64", "F32 in F64", "C64", "positions", "tokens", "I32", "U16", "BOOL"],
)
def test_other_dtypes_are_not_left_raw(array, default, max):
    assert encoded(array, "default") > default
    assert encoded(array, "max") > max
