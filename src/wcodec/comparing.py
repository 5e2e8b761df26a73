# SPDX-License-Identifier: Apache-2.0
"""Comparing the layers of two files or directories. What is stored alike is not decoded."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wcodec.container import IndexEntry, Reader
from wcodec.decode import Path, decode_budget
from wcodec.dtypes import bits, numpy_dtype
from wcodec.layers import Layers
from wcodec.memory import Budget
from wcodec.windows import decode_windows


def diff(a: Path, b: Path, *, threads: int | None = None) -> list[dict[str, Any]]:
    """Compare the layers of two wcodec files or directories, by name.

    Returns a dict for each layer that differs, in the order of `a`, then those that only `b` has:
    `name`; `kind`, one of "only in a", "only in b", "dtype or shape" and "values"; for values also
    `n_weights`, `n_different` (elements of other bits) and `max_difference` (the largest absolute
    difference; None where the dtype is no number of numpy or a difference is not finite). Layers
    stored alike are not decoded. Memory is bounded by windows. Raises what decode_checkpoint
    raises.
    """
    budget = decode_budget(threads)
    found: list[dict[str, Any]] = []
    with Layers(a) as first, Layers(b) as second:
        for name, reader in first.readers.items():
            entry = reader.layers[name]
            if name not in second.readers:
                found.append({"name": name, "kind": "only in a"})
                continue
            other = second.readers[name]
            if (entry.dtype, entry.shape) != (other.layers[name].dtype, other.layers[name].shape):
                found.append({"name": name, "kind": "dtype or shape"})
            elif not _stored_alike(reader, other, name):
                found.extend(_value_differences(reader, other, entry, budget))
        found.extend(
            {"name": name, "kind": "only in b"}
            for name in second.readers
            if name not in first.readers
        )
    return found


def _stored_alike(first: Reader, second: Reader, name: str) -> bool:
    """Whether both records are the same bytes, which then decode alike."""
    a, b = first.resolve(name), second.resolve(name)
    if (a.name, a.record_bytes, a.record_crc) != (b.name, b.record_bytes, b.record_crc):
        return False
    pairs = zip(first.read_record(a.name), second.read_record(b.name), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def _value_differences(
    first: Reader, second: Reader, entry: IndexEntry, budget: Budget
) -> Iterator[dict[str, Any]]:
    size = bits(entry.dtype)
    dtype = numpy_dtype(entry.dtype) if size and size % 8 == 0 else np.dtype(np.uint8)
    n_different, largest = 0, 0.0
    for x, y in _aligned(first, second, entry.name, budget):
        width = dtype.itemsize
        different = (x.reshape(-1, width) != y.reshape(-1, width)).any(axis=1)
        if different.any():
            n_different += int(different.sum())
            largest = max(largest, _largest(x.view(dtype)[different], y.view(dtype)[different]))
    if n_different:
        is_number = bool(size and size % 8 == 0) and np.isfinite(largest)
        yield {
            "name": entry.name,
            "kind": "values",
            "n_weights": prod(entry.shape) if size else entry.data_bytes,
            "n_different": n_different,
            "max_difference": largest if is_number else None,
        }


def _largest(x: NDArray[Any], y: NDArray[Any]) -> float:
    """The largest absolute difference, infinite where one is not finite."""
    wide = np.complex128 if x.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        difference = np.abs(x.astype(wide) - y.astype(wide))
    return float(np.where(np.isfinite(difference), difference, np.inf).max())


def _aligned(
    first: Reader, second: Reader, name: str, budget: Budget
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The bytes of a layer in both files, in pieces of equal size of whole elements."""
    windows = [
        decode_windows(reader.open_layer(reader.resolve(name).name), budget)
        for reader in (first, second)
    ]
    left = [np.empty(0, np.uint8), np.empty(0, np.uint8)]
    while True:
        for i, source in enumerate(windows):
            if not len(left[i]):
                left[i] = next(source, left[i])
        n = min(map(len, left))
        if not n:
            return
        yield left[0][:n], left[1][:n]
        left = [part[n:] for part in left]
