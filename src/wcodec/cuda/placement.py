# SPDX-License-Identifier: Apache-2.0
"""Which blocks of a layer a selection needs on a device, and where they go.

A block that is wanted as a whole is decoded into its place. Of others, and of those of row groups,
whose rows lie apart, the rows and columns that are wanted are moved there after decoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wcodec.codec import batch
from wcodec.codec.layout import Grid, all_blocks, band_edges, bands
from wcodec.container import Layer
from wcodec.slices import Runs, touched_panels

_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Placement:
    """Blocks by number, rising, and where they go: descriptors say where the first wanted column
    of row 0 is in the output, which is a row of the block or, with a row index, what that says.
    `first_cols` and `n_cols` are the wanted columns of each block; None if blocks are decoded into
    their places.
    """

    numbers: _Ints
    descriptors: NDArray[np.void]
    row_index: NDArray[np.uint32] = field(default_factory=lambda: batch.NO_ROWS)
    first_cols: _Ints | None = None
    n_cols: _Ints | None = None

    def part(self, first: int, last: int) -> Placement:
        """The blocks from `first` to `last`, exclusive, with the part of the row index they use."""
        chosen = slice(first, last)
        if self.first_cols is None or self.n_cols is None:
            return Placement(self.numbers[chosen], self.descriptors[chosen])
        descriptors = self.descriptors[chosen].copy()
        indexed = descriptors["row_index_first"] != batch.NO_ROW_INDEX
        row_index = batch.NO_ROWS
        if indexed.any():
            begins = descriptors["row_index_first"][indexed]
            begin, end = begins.min(), (begins + descriptors["rows"][indexed]).max()
            row_index = self.row_index[int(begin) : int(end)]
            descriptors["row_index_first"][indexed] -= begin
        return Placement(
            self.numbers[chosen],
            descriptors,
            row_index,
            self.first_cols[chosen],
            self.n_cols[chosen],
        )


def whole_layer(layer: Layer, grid: Grid) -> Iterator[Placement]:
    """All blocks of a layer that has data. Raises CorruptError."""
    if grid.row_groups:
        every = Runs(np.zeros(1, np.int64), grid.rows), Runs(np.zeros(1, np.int64), grid.cols)
        yield from _of_panels(layer, grid, *every)
        return
    layer.check_count(grid.n_blocks)
    yield Placement(np.arange(grid.n_blocks), all_blocks([grid]))


def selection(layer: Layer, grid: Grid, rows: Runs, cols: Runs) -> Iterator[Placement]:
    """The blocks that hold some of these rows and of these columns, which are one run, for an
    output of just those. Raises CorruptError.
    """
    return (_of_panels if grid.row_groups else _of_bands)(layer, grid, rows, cols)


class _Columns:
    """The column bands that are touched: their numbers, what is wanted of each, and where that
    goes in a row of the output.
    """

    def __init__(self, grid: Grid, cols: Runs) -> None:
        edges = grid.column_edges(0, grid.col_bands)
        before = cols.before(edges)
        self.touched = np.flatnonzero(np.diff(before))
        self.widths = np.diff(edges)[self.touched]
        self.first = np.maximum(int(cols.starts[0]) - edges[self.touched], 0)
        self.n = np.diff(before)[self.touched]
        self.put = before[self.touched] * grid.unit_bytes
        self.row_bytes = cols.n * grid.unit_bytes


def _of_bands(layer: Layer, grid: Grid, rows: Runs, cols: Runs) -> Iterator[Placement]:
    n_bands = bands(grid.rows, grid.block_rows)
    layer.check_count(n_bands * grid.col_bands)
    edges = band_edges(n_bands, grid.rows, 0, n_bands)
    before = rows.before(edges)
    touched = np.flatnonzero(np.diff(before))
    heights, wanted = np.diff(edges)[touched], np.diff(before)[touched]
    maps = []
    for band in touched[wanted < heights].tolist():
        first, last = int(edges[band]), int(edges[band + 1])
        maps.append(_ranks(rows, first, last))
    index_first = np.full(len(touched), batch.NO_ROW_INDEX, np.uint64)
    index_first[wanted < heights] = np.cumsum([0, *map(len, maps)])[:-1]

    columns = _Columns(grid, cols)
    found = np.zeros((len(touched), len(columns.touched)), batch.DESCRIPTOR)
    found["matrix_offset"] = before[touched][:, None] * columns.row_bytes + columns.put
    found["row_stride"] = columns.row_bytes
    found["row_index_first"] = index_first[:, None]
    found["rows"], found["cols"] = heights[:, None], columns.widths
    descriptors = found.reshape(-1)
    numbers = (touched[:, None] * grid.col_bands + columns.touched).reshape(-1)
    is_whole = (wanted == heights)[:, None] & (columns.n == columns.widths)
    first_cols, n_cols = (
        np.broadcast_to(x, is_whole.shape).reshape(-1) for x in (columns.first, columns.n)
    )
    whole = is_whole.reshape(-1)
    if whole.any():
        yield Placement(numbers[whole], descriptors[whole])
    if not whole.all():
        row_index = np.concatenate(maps) if maps else batch.NO_ROWS
        rest = ~whole
        yield Placement(numbers[rest], descriptors[rest], row_index, first_cols[rest], n_cols[rest])


def _of_panels(layer: Layer, grid: Grid, rows: Runs, cols: Runs) -> Iterator[Placement]:
    columns = _Columns(grid, cols)
    for panel in touched_panels(layer, grid, rows):
        row_index = _ranks(rows, panel.first_row, panel.last_row)[panel.row_index]
        before = np.concatenate([[0], np.cumsum(row_index != batch.NO_ROW)])
        by_band = panel.descriptors.reshape(-1, grid.col_bands)
        begin = by_band["row_index_first"][:, 0].astype(np.int64)
        touched = np.flatnonzero(before[begin + by_band["rows"][:, 0]] - before[begin])
        found = by_band[touched][:, columns.touched]
        put = int(rows.before(np.array([panel.first_row]))[0]) * columns.row_bytes
        found["matrix_offset"] = put + columns.put
        found["row_stride"] = columns.row_bytes
        numbers = touched[:, None] * grid.col_bands + columns.touched + panel.map_number + 1
        yield Placement(
            numbers.reshape(-1),
            found.reshape(-1),
            row_index,
            np.broadcast_to(columns.first, found.shape).reshape(-1),
            np.broadcast_to(columns.n, found.shape).reshape(-1),
        )


def _ranks(rows: Runs, first: int, last: int) -> NDArray[np.uint32]:
    """Which of the selected rows from `first` on each row is, or NO_ROW."""
    ranks = np.full(last - first, batch.NO_ROW, np.uint32)
    wanted = rows.between(first, last)
    ranks[wanted] = np.arange(len(ranks[wanted]))
    return ranks
