# SPDX-License-Identifier: Apache-2.0
"""The 22 dtypes of safetensors: their names, sizes in bits, units and numpy dtypes.

Sizes are in bits because F4 and F6 elements are not whole bytes. The order of DTYPES is that of
safetensors' own list, by which it sorts the tensors of a file (safetensors_file.canonical_header).
A dtype that is not in the list is legal everywhere: it is carried as bytes. ml_dtypes is imported
when one of its dtypes is asked for, not before.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MAX_U64 = (1 << 64) - 1


class DType(NamedTuple):
    """A dtype of safetensors: its name, the bits of an element, and the module and name of its
    numpy dtype.
    """

    name: str
    bits: int
    module: str
    array_name: str


_PACKED = ("numpy", "uint8")  # an array of a sub-byte dtype holds its packed bytes

DTYPES: dict[str, DType] = {
    name: DType(name, bits, *array)
    for name, bits, array in (
        ("BOOL", 8, ("numpy", "bool")),
        ("F4", 4, _PACKED),
        ("F6_E2M3", 6, _PACKED),
        ("F6_E3M2", 6, _PACKED),
        ("U8", 8, ("numpy", "uint8")),
        ("I8", 8, ("numpy", "int8")),
        ("F8_E5M2", 8, ("ml_dtypes", "float8_e5m2")),
        ("F8_E4M3", 8, ("ml_dtypes", "float8_e4m3fn")),
        ("F8_E8M0", 8, ("ml_dtypes", "float8_e8m0fnu")),
        ("F8_E4M3FNUZ", 8, ("ml_dtypes", "float8_e4m3fnuz")),
        ("F8_E5M2FNUZ", 8, ("ml_dtypes", "float8_e5m2fnuz")),
        ("I16", 16, ("numpy", "int16")),
        ("U16", 16, ("numpy", "uint16")),
        ("F16", 16, ("numpy", "float16")),
        ("BF16", 16, ("ml_dtypes", "bfloat16")),
        ("I32", 32, ("numpy", "int32")),
        ("U32", 32, ("numpy", "uint32")),
        ("F32", 32, ("numpy", "float32")),
        ("C64", 64, ("numpy", "complex64")),
        ("F64", 64, ("numpy", "float64")),
        ("I64", 64, ("numpy", "int64")),
        ("U64", 64, ("numpy", "uint64")),
    )
}

_NAMES = {d.array_name: d.name for d in DTYPES.values() if d.bits % 8 == 0}


def bits(name: str) -> int | None:
    """Return the bits of an element of dtype `name`, or None for a dtype that is not known."""
    dtype = DTYPES.get(name)
    return None if dtype is None else dtype.bits


def unit_bytes(name: str) -> int:
    """Return the size of the largest unit: of an element where that is whole bytes, otherwise 1
    (F4, F6, unknown dtypes). Other units are an equal part of it.
    """
    size = bits(name)
    return 1 if size is None or size % 8 else size // 8


def overflows(name: str, shape: Sequence[int]) -> bool:
    """Return whether the product of the axes, taken from the left, or that with the bits of an
    element is 2^64 or more at any point: what safetensors refuses, though a zero may follow.
    """
    n = math.prod(shape)
    if n == 0:
        n = math.prod(shape[: list(shape).index(0)])
        return n > MAX_U64
    return n * (bits(name) or 1) > MAX_U64


def data_bits(name: str, shape: Sequence[int]) -> int | None:
    """Return the bits of a tensor of this dtype and shape, or None for an unknown dtype."""
    size = bits(name)
    return None if size is None else math.prod(shape) * size


@functools.cache
def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """Return the numpy dtype that holds dtype `name`.

    BF16 and the F8 dtypes come from ml_dtypes. F4, F6 and dtypes that are not known give uint8:
    their bytes as packed.

    >>> numpy_dtype("F32"), numpy_dtype("BF16").name, numpy_dtype("F4")
    (dtype('float32'), 'bfloat16', dtype('uint8'))
    """
    dtype = DTYPES.get(name)
    if dtype is None:
        return np.dtype(np.uint8)
    if dtype.module == "numpy":
        return np.dtype(dtype.array_name)
    found: np.dtype[np.generic] = np.dtype(
        getattr(importlib.import_module(dtype.module), dtype.array_name)
    )
    return found


def dtype_name(dtype: np.dtype[np.generic]) -> str:
    """Return the safetensors name of a numpy dtype.

    Raises ValueError for a dtype that safetensors has not (text, dates, float128, structured ...),
    and for one in the byte order that is not the machine's.

    >>> dtype_name(np.dtype(np.float16))
    'F16'
    """
    name = _NAMES.get(dtype.name)
    if name is None:
        raise ValueError(f"dtype {dtype} has no safetensors name; known are {', '.join(_NAMES)}")
    if not dtype.isnative:
        raise ValueError(f"dtype {dtype!r} is in foreign byte order; convert the array with astype")
    return name
