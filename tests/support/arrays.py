# SPDX-License-Identifier: Apache-2.0
"""Arrays to encode: the values that break codecs, and files made of them. Comparison is by bytes,
never by value.
"""

from __future__ import annotations

import numpy as np

from wcodec.dtypes import DTYPES, bits, numpy_dtype

WHOLE_BYTE_DTYPES = [name for name in DTYPES if bits(name) % 8 == 0]
FLOATS = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}

# (sign and exponent bits, mantissa bits) of the floats that rans16 codes
FIELDS = {"BF16": (8, 7), "F16": (5, 10), "F32": (8, 23)}


def gaussian(dtype: str, n: int, seed: int = 0) -> np.ndarray:
    """n values of a trained-weight-like distribution, as the dtype's array."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(n).astype(np.float32) * np.float32(0.02)
    if dtype in ("F64", "C64"):
        return values.astype(numpy_dtype(dtype))
    if dtype in FLOATS or dtype.startswith("F8"):
        return values.astype(numpy_dtype(dtype))
    if dtype == "BOOL":
        return values > 0
    return np.clip(values * 1000, -100, 100).astype(np.int64).astype(numpy_dtype(dtype))


def random_bits(dtype: str, n: int, seed: int = 0) -> np.ndarray:
    """n values with every bit random: NaN payloads, infinities, subnormals and all."""
    target = numpy_dtype(dtype)
    data = np.random.default_rng(seed).bytes(n * target.itemsize)
    if dtype == "BOOL":
        return np.frombuffer(data, np.uint8) % 2 == 1
    return np.frombuffer(data, target).copy()


def float_patterns(dtype: str, n: int) -> dict[str, np.ndarray]:
    """Named arrays of n words of a float dtype that rans16 codes."""
    exponent_bits, mantissa_bits = FIELDS[dtype]
    word = FLOATS[dtype]
    random = np.random.default_rng(n)
    one = word(1)
    sign = one << word(exponent_bits + mantissa_bits)
    exponent = ((one << word(exponent_bits)) - one) << word(mantissa_bits)
    mantissa = (one << word(mantissa_bits)) - one

    def words(values) -> np.ndarray:
        return np.asarray(values).astype(word)

    signs = words(random.integers(0, 2, n)) * sign
    mantissas = words(random.integers(0, int(mantissa) + 1, n))
    spread = words(random.integers(0, 1 << exponent_bits, n)) << word(mantissa_bits)
    base = gaussian(dtype, n).view(word)
    different = np.full(n, base[:1] if n else 0, word)
    different[n // 2 :][:1] ^= one
    many = words(np.arange(n) % min(100, 1 << exponent_bits)) << word(mantissa_bits)
    # Mostly one exponent, and in turn each lane one of many others: escapes in every lane.
    middle = words(np.full(n, (1 << (exponent_bits - 1)) - 1)) << word(mantissa_bits)
    rare = np.where(np.arange(n) % 127 == 0, spread, middle)
    return {
        "zeros": np.zeros(n, word),
        "negative zeros": np.full(n, sign, word),
        "infinities": signs | exponent,
        "nan payloads": signs | exponent | mantissas | one,
        "subnormals": signs | mantissas,
        "all equal": np.full(n, base[:1] if n else 0, word),
        "one different": different,
        "gaussian": base,
        "random bits": random_bits(dtype, n, 5).view(word),
        "all exponents": signs | spread | mantissas,
        "100 exponents": many | mantissas,
        "escapes": rare | mantissas | signs,
        "one exponent": middle | mantissas | signs,
        "extremes": words(np.tile([0, int(sign), int(exponent | mantissa), 1], n // 4 + 1)[:n]),
    }


def same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same dtype, shape and bytes."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
