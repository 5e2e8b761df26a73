# SPDX-License-Identifier: Apache-2.0
"""Index expressions: which positions of each axis `slice_[...]` needs, and what is left to do with
those once they are there.

Two rules, those of safetensors' slices: torch's own (framework "pt"), and its narrower ones for
numpy, with the texts of its errors. Deviation from the latter: negative bounds and slices that end
before they begin work as in numpy, where safetensors 0.8 fails by accident.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from wcodec.errors import WcodecError
from wcodec.slices import Positions


class Selection(NamedTuple):
    """Decode these positions of each axis, then apply `key` to the array of them."""

    positions: list[Positions]
    key: Any

    def is_whole(self, shape: Sequence[int]) -> bool:
        """Whether the positions are all of a tensor."""
        return all(len(places) == n for places, n in zip(self.positions, shape, strict=True))


def torch_selection(index: Any, shape: Sequence[int]) -> Selection:
    """What `index` selects by the rules of torch. Raises IndexError, ValueError, TypeError.

    What is neither an integer, a slice, a list of integers, None nor an ellipsis needs all of the
    tensor, and torch itself judges it.
    """
    items = index if isinstance(index, tuple) else (index,)
    items = tuple(_plain(item) for item in items)
    if not all(_is_simple(item) for item in items):
        return Selection([range(n) for n in shape], index)
    n_axes = sum(not isinstance(item, bool | None | type(Ellipsis)) for item in items)
    if not shape and n_axes == 1 and isinstance(items[-1], int) and items[-1] != 0:
        raise IndexError(f"index {items[-1]} is out of bounds for dimension 0 with size 0")
    if n_axes > len(shape) and not (not shape and items in ((0,), (items[0],)) and n_axes == 1):
        raise IndexError(f"too many indices for tensor of dimension {len(shape)}")
    if n_axes > len(shape):
        return Selection([], index)  # torch says what is wrong with it
    positions: list[Positions] = []
    key: list[Any] = []
    skipped = len(shape) - n_axes
    for item in items:
        if item is Ellipsis:
            positions += [range(n) for n in shape[len(positions) : len(positions) + skipped]]
            skipped = 0
            key.append(item)
        elif item is None or isinstance(item, bool):
            key.append(item)
        else:
            axis = len(positions)
            places, rest = _torch_axis(item, axis, shape[axis])
            positions.append(places)
            key.append(rest)
    positions += [range(n) for n in shape[len(positions) :]]
    return Selection(positions, tuple(key))


def _plain(item: Any) -> Any:
    """An item as an int or a list where it is just another form of that."""
    if hasattr(item, "tolist") and getattr(item, "ndim", 2) <= 1:  # numpy and torch
        item = item.tolist()
    if isinstance(item, range):
        return list(item)
    if isinstance(item, int | bool | slice | list | float | str | None | type(Ellipsis)):
        return item
    try:
        return operator.index(item)
    except TypeError:
        return item


def _is_simple(item: Any) -> bool:
    if isinstance(item, list):
        return all(type(i) is int for i in item)
    return isinstance(item, int | slice | None | type(Ellipsis))


def _torch_axis(item: Any, axis: int, n: int) -> tuple[Positions, Any]:
    if isinstance(item, int):
        _check_bounds(item, axis, n)
        return range(item % n, item % n + 1), 0
    if isinstance(item, slice):
        places = range(*item.indices(n))
        if places.step < 0:
            raise ValueError("step must be greater than zero")
        return places, slice(None)
    if item and not n:
        raise IndexError("index is out of bounds for dimension with size 0")
    for i in item:
        _check_bounds(i, axis, n)
    found, inverse = np.unique(np.array([i % n for i in item], np.int64), return_inverse=True)
    return found, inverse.tolist()


def _check_bounds(i: int, axis: int, n: int) -> None:
    if not -n <= i < n:
        raise IndexError(f"index {i} is out of bounds for dimension {axis} with size {n}")


def numpy_selection(index: Any, shape: Sequence[int]) -> Selection:
    """What `index` selects by safetensors' rules for numpy: integers, slices and one ellipsis.
    Raises WcodecError, TypeError.
    """
    if isinstance(index, list):
        if index:
            raise WcodecError("Non empty lists are not implemented")
        index = slice(0, 0)
    items = list(index) if isinstance(index, tuple) else [index]
    n_ellipses = sum(item is Ellipsis for item in items)
    if n_ellipses > 1:
        raise WcodecError("Only one ellipsis (...) is allowed in slice index")
    if n_ellipses:
        at = next(i for i, item in enumerate(items) if item is Ellipsis)
        items[at : at + 1] = [slice(None)] * (len(shape) - len(items) + 1)
    items = [_numpy_item(item, i, shape) for i, item in enumerate(items)]
    where = f"Error during slicing [{', '.join(map(_text, items))}] with shape {list(shape)}"
    if len(items) > len(shape):
        raise WcodecError(f"{where}: more slicing indexes than dimensions in tensor")
    positions: list[Positions] = []
    for axis, (item, n) in enumerate(zip(items, shape, strict=False)):
        first, last = (item, item + 1) if isinstance(item, int) else _bounds(item, n)
        if first > n or last > n:
            outside = first if first >= n else last - 1
            raise WcodecError(
                f"{where}: index {outside} out of bounds for tensor dimension #{axis} of size {n}"
            )
        step = 1 if isinstance(item, int) else operator.index(item.step or 1)
        positions.append(range(first, max(first, last), step))
    positions += [range(n) for n in shape[len(positions) :]]
    return Selection(
        positions, tuple(0 if isinstance(item, int) else slice(None) for item in items)
    )


def _numpy_item(item: Any, axis: int, shape: Sequence[int]) -> int | slice:
    n = shape[axis] if axis < len(shape) else 0
    if isinstance(item, slice):
        step = 1 if item.step is None else operator.index(item.step)
        if step < 1:
            raise WcodecError(f"Slice step must be a positive integer, got {step}")
        return slice(_bound(item.start, n), _bound(item.stop, n), item.step)
    try:
        i = operator.index(item)
    except TypeError:
        raise WcodecError(
            f"Unsupported slice index at position {axis}: expected slice, int, or ellipsis"
        ) from None
    if i < -n:
        raise WcodecError(f"Invalid index {i} for dimension {axis} of size {n}")
    return i + n if i < 0 else i


def _bound(bound: Any, n: int) -> int | None:
    if bound is None:
        return None
    i = operator.index(bound)
    return max(0, i + n) if i < 0 else i


def _bounds(item: slice, n: int) -> tuple[int, int]:
    return 0 if item.start is None else item.start, n if item.stop is None else item.stop


def _text(item: int | slice) -> str:
    if isinstance(item, int):
        return str(item)
    bounds = [item.start, item.stop, *([item.step] if item.step not in (None, 1) else [])]
    return ":".join("" if bound is None else str(bound) for bound in bounds)
