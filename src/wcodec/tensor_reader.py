# SPDX-License-Identifier: Apache-2.0
"""The bytes of tensors, a window at a time: where they lie, or read, the next ones while the caller
works on these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wcodec.overlap import Begin, Buffers
from wcodec.sources import Tensor

MIN_AHEAD_BYTES = 1 << 20  # to read less takes no longer than to hand it over


class _Part(NamedTuple):
    """Bytes `start` to `end`, exclusive, of a tensor."""

    tensor: Tensor
    start: int
    end: int

    def holds(self, other: _Part) -> bool:
        return self.tensor is other.tensor and self.start <= other.start and other.end <= self.end


class TensorReader:
    """Reads tensors one after the other. Each byte is read once: what a window shares with the one
    before stays.

    `begin` (overlap.worker) has another thread read what fetch() was told; without it fetch() does
    nothing.
    """

    def __init__(self, begin: Begin | None = None) -> None:
        self._begin = begin
        self._buffers = Buffers(1 if begin is None else 2, lambda n: np.empty(n, np.uint8))
        self._part: _Part | None = None
        self._memory = np.empty(0, np.uint8)  # holds that part
        self._ahead: tuple[_Part, Callable[[], NDArray[np.uint8]]] | None = None
        self._tensor: Tensor | None = None  # asked for last
        self._whole: NDArray[np.uint8] | None = None  # its bytes, if they lie in memory

    def get(self, tensor: Tensor, start: int, size: int) -> NDArray[np.uint8]:
        """Bytes start to start + size, not before those of this tensor asked for last; valid until
        others are asked for.
        """
        if tensor is not self._tensor:
            self._tensor, self._whole = tensor, tensor.memory()
        if self._whole is not None:
            return self._whole[start : start + size]
        part = _Part(tensor, start, start + size)
        if self._part is None or not self._part.holds(part):
            self._part, self._memory = part, self._read(part)
        begin = start - self._part.start
        return self._memory[begin : begin + size]

    def fetch(self, tensor: Tensor, start: int, size: int) -> None:
        """Begin to read bytes that get() is asked for next. What get() gave last stays valid."""
        part = _Part(tensor, start, start + size)
        if self._begin is None or self._ahead is not None or size < MIN_AHEAD_BYTES:
            return
        if tensor.memory() is None and not (self._part is not None and self._part.holds(part)):
            self._ahead = part, self._begin(self._reading(part))

    def leave(self) -> None:
        """Hold the tensor asked for last no longer."""
        self._tensor = self._whole = self._part = None

    def _read(self, part: _Part) -> NDArray[np.uint8]:
        if self._ahead is not None:
            (fetched, wait), self._ahead = self._ahead, None
            memory = wait()
            if fetched == part:
                return memory
        return self._reading(part)()

    def _reading(self, part: _Part) -> Callable[[], NDArray[np.uint8]]:
        """Reads the part into memory of its own, with what of it is there."""
        kept = self._memory[:0]
        if self._part is not None and self._part.tensor is part.tensor:
            kept = self._memory[part.start - self._part.start :]
        memory = self._buffers.take(part.end - part.start)[: part.end - part.start]

        def read() -> NDArray[np.uint8]:
            memory[: len(kept)] = kept  # numpy minds the overlap
            part.tensor.read_into(part.start + len(kept), memory[len(kept) :])
            return memory

        return read
