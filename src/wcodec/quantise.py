# SPDX-License-Identifier: Apache-2.0
"""int8 quantisation, the one lossy step, before encoding; dequantise.py is the mirror and says
what becomes of a tensor.

Symmetric about 0 for each output channel: scale = largest magnitude of the channel / 127, integer =
value / scale, rounded to the nearest (half to even).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from math import prod

import numpy as np
from numpy.typing import NDArray

from wcodec.dequantise import DTYPES, PIECE_ELEMENTS, scale_name, scale_of_elements
from wcodec.dtypes import numpy_dtype
from wcodec.safetensors_file import NamedTensor, canonical_order, parse_header
from wcodec.sources import Source, Tensor

QUANT_TYPES = ("int8",)
LIMIT = 127


def is_quantisable(tensor: NamedTensor) -> bool:
    """Whether quantisation changes a tensor: floats of two or more axes, and not empty."""
    return tensor.dtype in DTYPES and len(tensor.shape) >= 2 and tensor.data_bytes > 0


def quantise(source: Source) -> tuple[Source, dict[str, str]]:
    """Return the source with its matrices of floats quantised, and the dtype that each had.

    Raises ValueError for a source that can be read only once, as the scales are known after the
    first reading, and for a name that is there already; while it is read, for values that are not
    finite.
    """
    if not source.again:
        raise ValueError("quant_type needs an input that can be read twice: a path or a dict")
    given = list(source.tensors)
    names = {tensor.name for tensor in given}
    tensors: list[Tensor] = []
    dtypes = {}
    for tensor in given:
        if not is_quantisable(tensor):
            tensors.append(tensor)
            continue
        quantised = _QuantisedTensor(tensor)
        scales = _ScaleTensor(quantised)
        if scales.name in names:
            raise ValueError(
                f"tensor {tensor.name!r:.200}: its scales would be named like {scales.name!r:.200}"
            )
        dtypes[tensor.name] = tensor.dtype
        tensors += quantised, scales
    tensors = canonical_order(tensors)
    data_bytes = sum(tensor.data_bytes for tensor in tensors)
    return source._replace(tensors=tensors, header=None, data_bytes=data_bytes), dtypes


def metadata_of(header: str | None) -> dict[str, str]:
    """The text metadata in the header of a safetensors file."""
    return {} if header is None else parse_header(header.encode("utf-8")).metadata or {}


class _QuantisedTensor:
    """The integers of a matrix of floats; they are made as they are read."""

    dtype = "I8"

    def __init__(self, tensor: Tensor) -> None:
        self.name = tensor.name
        self.shape = tensor.shape
        self.data_bytes = prod(tensor.shape)
        self._tensor = tensor
        self._scales: NDArray[np.float32] | None = None
        self._lock = threading.Lock()  # the tensor of the scales asks, too

    @property
    def scales(self) -> NDArray[np.float32]:
        """The scale of each channel, from a first reading."""
        with self._lock:
            if self._scales is None:
                self._scales = self._read_scales()
            return self._scales

    def read_into(self, start: int, out: NDArray[np.uint8]) -> None:
        scales = self.scales
        cols = self.data_bytes // self.shape[0]
        integers = out.view(np.int8)
        for at, values in self._pieces(start, start + len(out)):
            scale = scale_of_elements(scales, at, len(values), cols)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                found = np.where(scale > 0, np.rint(values / scale), 0)
            found = np.clip(found, -LIMIT, LIMIT)
            integers[at - start : at - start + len(values)] = found.astype(np.int8)

    def memory(self) -> None:
        return None

    def _read_scales(self) -> NDArray[np.float32]:
        largest = np.zeros(self.shape[0], np.float32)
        cols = self.data_bytes // self.shape[0]
        for at, values in self._pieces(0, self.data_bytes):
            if not np.isfinite(values).all():
                raise ValueError(
                    f"tensor {self.name!r:.200}: has values that are not finite, which int8 cannot "
                    "hold"
                )
            first, last = at // cols, (at + len(values) - 1) // cols
            starts = np.maximum(np.arange(first, last + 1) * cols - at, 0)
            found = np.maximum.reduceat(np.abs(values), starts)
            largest[first : last + 1] = np.maximum(largest[first : last + 1], found)
        scales: NDArray[np.float32] = largest / np.float32(LIMIT)
        with np.errstate(over="ignore"):  # 127 scales may round to more than the largest float
            overflows = np.isinf(scales * np.float32(LIMIT))
        scales[overflows] = np.nextafter(scales[overflows], np.float32(0))
        return scales

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The values of elements start to end, in pieces with the place of the first."""
        dtype = numpy_dtype(self._tensor.dtype)
        size = dtype.itemsize
        memory = np.empty(min(PIECE_ELEMENTS, end - start) * size, np.uint8)
        for at in range(start, end, PIECE_ELEMENTS):
            piece = memory[: min(PIECE_ELEMENTS, end - at) * size]
            self._tensor.read_into(at * size, piece)
            yield at, piece.view(dtype).astype(np.float32, copy=False)


class _ScaleTensor:
    """The scales of a quantised tensor."""

    dtype = "F32"

    def __init__(self, quantised: _QuantisedTensor) -> None:
        self.name = scale_name(quantised.name)
        self.shape = quantised.shape[:1]
        self.data_bytes = 4 * self.shape[0]
        self._quantised = quantised

    def read_into(self, start: int, out: NDArray[np.uint8]) -> None:
        out[:] = self.memory()[start : start + len(out)]

    def memory(self) -> NDArray[np.uint8]:
        return self._quantised.scales.view(np.uint8)
