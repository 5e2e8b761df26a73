# SPDX-License-Identifier: Apache-2.0
"""One layer, decoded window by window in the memory that a run may use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wcodec.codec import batch
from wcodec.codec.layout import Grid, Window, matrix_shape
from wcodec.container import Layer, LayerHead, SequentialLayer
from wcodec.container.blocks import allocate
from wcodec.memory import Budget
from wcodec.overlap import Buffers, read_ahead


class WindowMemory:
    """What decoding of windows takes, for one layer after the other: memory that is new to the
    process costs as much as decoding.
    """

    def __init__(self, budget: Budget) -> None:
        self.maps = Buffers(1, allocate)
        self.blocks = Buffers(budget.n_buffers, allocate)
        self.windows = Buffers(budget.n_buffers, batch.aligned_empty)


def decode_windows(
    layer: Layer | SequentialLayer,
    budget: Budget,
    out: NDArray[np.uint8] | None = None,
    memory: WindowMemory | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Decode a stored layer window by window and yield the bytes of each, in order.

    With `out`, an array of data_bytes, windows are decoded into their places in it; else each is
    valid until budget.n_buffers more are asked for, of this layer or another with this `memory`.
    The blocks of one window of a file are read while the one before is decoded, if the budget
    allows that. Raises ValueError for a layer whose windows it does not allow.
    """
    head = layer.head
    memory = memory or WindowMemory(budget)
    blocks = _BlockReader(layer, grid_of(head), budget, memory)
    windows = blocks.grid.windows(budget.window_bytes)
    # A pipe may have nothing to give for long; only the caller's thread can be interrupted then.
    ahead = budget.overlap and isinstance(layer, Layer)
    for ready in read_ahead(windows, blocks.read, ahead=ahead):
        window = ready.window
        if out is not None:
            target = out[window.start : window.start + window.size]
        else:
            target = memory.windows.take(window.size)[: window.size]
        batch.decode_blocks(
            ready.blocks,
            head.family,
            ready.descriptors,
            ready.row_index,
            target,
            blocks.grid.unit_bytes,
            threads=budget.threads,
            layer=head.name,
            first_block=ready.first_block,
        )
        yield target
    layer.finish()


class _ReadWindow(NamedTuple):
    """The blocks of a window, as stored, the number of the first, and where they belong."""

    window: Window
    blocks: batch.Blocks
    first_block: int
    descriptors: NDArray[np.void]
    row_index: NDArray[np.uint32]


class _BlockReader:
    """Reads the blocks of a layer window by window."""

    def __init__(
        self, layer: Layer | SequentialLayer, grid: Grid, budget: Budget, memory: WindowMemory
    ) -> None:
        self.grid = grid
        self._layer = layer
        self._budget = budget
        self._memory = memory
        self._n_read = 0

    def read(self, window: Window) -> _ReadWindow:
        """The blocks of the next window, valid until budget.n_buffers more are read."""
        name = self._layer.head.name
        self._budget.check(name, window.size)
        if window.descriptors is None:
            first_block = self._n_read
            groups = batch.decode_row_groups(
                self._take(1, self._memory.maps), window.rows, layer=name, first_block=first_block
            )
            descriptors, row_index = self.grid.group_descriptors(groups)
        else:
            descriptors, row_index = window.descriptors, batch.NO_ROWS
        first_block = self._n_read
        blocks = self._take(len(descriptors), self._memory.blocks)
        return _ReadWindow(window, blocks, first_block, descriptors, row_index)

    def _take(self, count: int, buffers: Buffers) -> batch.Blocks:
        taken = self._layer.take(count, buffers)
        self._n_read += count
        return batch.Blocks(taken.headers, taken.data)


def grid_of(head: LayerHead) -> Grid:
    """The block grid that a head describes. Raises CorruptError if it is not legal."""
    if head.data_bytes == 0:
        rows = cols = 0
    else:
        rows, cols = matrix_shape(head.shape, head.data_bytes, head.unit_bytes, head.row_axes)
    grid = Grid(
        rows,
        cols,
        head.unit_bytes,
        head.block_rows,
        head.col_bands,
        head.panel_rows,
        head.row_groups,
    )
    grid.check(head.name)
    return grid
