# SPDX-License-Identifier: Apache-2.0
"""What a quantised file says, and floats of it again; the mirror of quantise.py.

A matrix of floats `name` has become an I8 tensor `name` of the same shape and an F32 tensor
`name.scale` with one scale for each index of the first axis (an output channel): value = scale *
integer. The metadata of the file says under options.quantised what dtype each had.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wcodec.dtypes import bits, numpy_dtype
from wcodec.errors import CorruptError
from wcodec.safetensors_file import NamedTensor

DTYPES = ("F16", "BF16", "F32")
QUANTISED = "quantised"  # the key of the options in a file's metadata
PIECE_ELEMENTS = 1 << 20


class PlainTensor(NamedTuple):
    """What a quantised layer is the int8 of."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data_bytes: int


def scale_name(name: str) -> str:
    """The name of the scales of a quantised tensor."""
    return f"{name}.scale"


def quantised_tensors(
    options: Mapping[str, Any], layers: Mapping[str, NamedTensor]
) -> dict[str, PlainTensor]:
    """What the quantised layers of a file were, by name. Raises CorruptError where its metadata and
    layers disagree.
    """
    dtypes = options.get(QUANTISED, {})
    if not isinstance(dtypes, dict):
        raise CorruptError(f"metadata: options.{QUANTISED} is no object")
    found = {}
    for name, dtype in dtypes.items():
        where = f"metadata: options.{QUANTISED}: layer {name!r:.200}"
        if dtype not in DTYPES:
            raise CorruptError(f"{where} was {dtype!r:.80}, expected one of {', '.join(DTYPES)}")
        layer, scales = layers.get(name), layers.get(scale_name(name))
        if layer is None or layer.dtype != "I8" or len(layer.shape) < 2 or not layer.data_bytes:
            raise CorruptError(f"{where} is no I8 matrix of the file")
        if scales is None or (scales.dtype, scales.shape) != ("F32", layer.shape[:1]):
            raise CorruptError(f"{where} has no F32 scales of shape {list(layer.shape[:1])}")
        size = layer.data_bytes * (bits(dtype) or 0) // 8
        found[name] = PlainTensor(name, dtype, layer.shape, size)
    return found


def without_scales(
    layers: Iterable[NamedTensor], quantised: Mapping[str, PlainTensor]
) -> list[NamedTensor]:
    """The tensors that dequantising leaves of the layers of a file."""
    scales = set(map(scale_name, quantised))
    return [quantised.get(layer.name, layer) for layer in layers if layer.name not in scales]


def dequantise(
    integers: NDArray[np.int8], start: int, scales: NDArray[np.float32], tensor: PlainTensor
) -> Iterator[NDArray[Any]]:
    """Yield the values of the elements from `start` on, in pieces, in the dtype of the tensor."""
    dtype = numpy_dtype(tensor.dtype)
    cols = prod(tensor.shape[1:])
    for at in range(0, len(integers), PIECE_ELEMENTS):
        piece = integers[at : at + PIECE_ELEMENTS].astype(np.float32)
        with np.errstate(all="ignore"):  # scales of a file may be anything
            piece *= scale_of_elements(scales, start + at, len(piece), cols)
            yield piece.astype(dtype)


def scale_of_elements(
    scales: NDArray[np.float32], start: int, n: int, cols: int
) -> NDArray[np.float32]:
    """The scales of elements start to start + n, each channel having `cols` of them."""
    first, last = start // cols, (start + n - 1) // cols
    ends = np.minimum((np.arange(first, last + 1) + 1) * cols, start + n)
    return np.repeat(scales[first : last + 1], np.diff(ends, prepend=start))
