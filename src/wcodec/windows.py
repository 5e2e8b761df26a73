# SPDX-License-Identifier: Apache-2.0
"""One layer, decoded window by window in the memory that a run may use."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wcodec.codec import batch
from wcodec.codec.layout import Grid, matrix_shape
from wcodec.container import Layer, LayerHead, SequentialLayer
from wcodec.memory import Budget


def decode_windows(
    layer: Layer | SequentialLayer, budget: Budget, out: NDArray[np.uint8] | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Decode a stored layer window by window and yield the bytes of each, in order.

    With `out`, an array of data_bytes, windows are decoded into their places in it; else each is
    valid until the next. Raises ValueError for a layer whose windows the budget does not allow.
    """
    head = layer.head
    grid = grid_of(head)
    scratch = batch.aligned_empty(0)
    first_block = 0
    for window in grid.windows(budget.window_bytes):
        budget.check(head.name, window.size)
        if out is not None:
            target = out[window.start : window.start + window.size]
        else:
            if window.size > len(scratch):
                scratch = batch.aligned_empty(window.size)
            target = scratch[: window.size]
        if window.descriptors is None:
            groups = batch.decode_row_groups(
                _take(layer, 1), window.rows, layer=head.name, first_block=first_block
            )
            first_block += 1
            descriptors, row_index = grid.group_descriptors(groups)
        else:
            descriptors, row_index = window.descriptors, batch.NO_ROWS
        batch.decode_blocks(
            _take(layer, len(descriptors)),
            head.family,
            descriptors,
            row_index,
            target,
            grid.unit_bytes,
            threads=budget.threads,
            layer=head.name,
            first_block=first_block,
        )
        first_block += len(descriptors)
        yield target
    layer.finish()


def _take(layer: Layer | SequentialLayer, count: int) -> batch.Blocks:
    taken = layer.take(count)
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
