"""The block grid: from the shape of a layer to the places of its blocks (docs/format.md sections 4
and 5).

A `Grid` is what the file says. Encoder and decoder walk it in `Window`s: runs of consecutive blocks
that cover a contiguous run of the layer's bytes, so that either side works through a layer of any
size in bounded memory.
"""

import functools
from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wcodec.codec import batch
from wcodec.errors import CorruptError

MAX_BAND_BYTES = 1 << 28
MAX_PANEL_ROWS = 1 << 24
MAX_KEPT_BLOCKS = 64  # of a window that is kept
COLUMN_STEP = (
    batch.LANES
)  # column bands begin at multiples of this, so that a step of rans16 never crosses a row


def bands(n: int, aim: int) -> int:
    """How many bands n rows make when each should have about `aim`."""
    return max(1, (n + aim // 2) // aim)


def band_edges(n_bands: int, n: int, first: int, last: int) -> NDArray[np.int64]:
    """Where bands first to last - 1 of n_bands balanced bands of n rows begin, and where the last
    of them ends.
    """
    if n <= (1 << 62) // n_bands:
        return np.arange(first, last + 1, dtype=np.int64) * n // n_bands
    return np.array([i * n // n_bands for i in range(first, last + 1)], dtype=np.int64)


class Window(NamedTuple):
    """Consecutive blocks and the bytes of the layer they cover.

    `descriptors` place each block relative to `start`. With row groups a window is a panel, and its
    blocks are known once its map is.
    """

    start: int
    size: int
    rows: int
    descriptors: NDArray[np.void] | None


class Grid(NamedTuple):
    """How a layer of rows x cols units is cut. `rows` and `cols` are 0 in a layer without data."""

    rows: int
    cols: int
    unit_bytes: int
    block_rows: int
    col_bands: int
    panel_rows: int
    row_groups: bool

    @property
    def row_bytes(self) -> int:
        return self.cols * self.unit_bytes

    @property
    def data_bytes(self) -> int:
        return self.rows * self.row_bytes

    def column_edges(self, first: int, last: int) -> NDArray[np.int64]:
        if self.col_bands == 1:
            return np.array([0, self.cols], dtype=np.int64)
        edges = band_edges(self.col_bands, self.cols // COLUMN_STEP, first, last) * COLUMN_STEP
        if last == self.col_bands:
            edges[-1] = self.cols
        return edges

    def largest_block(self) -> tuple[int, int]:
        """Height and width of the largest block that this grid can make."""
        if (
            self.row_groups
        ):  # a group of any size up to the panel's; the most rows that still make one band
            height = min(self.panel_rows, 2 * self.block_rows - self.block_rows // 2 - 1)
        else:
            height = -(-self.rows // bands(self.rows, self.block_rows))
        if self.col_bands == 1:
            return height, self.cols
        steps = -(-(self.cols // COLUMN_STEP) // self.col_bands)
        return height, steps * COLUMN_STEP + self.cols % COLUMN_STEP

    def check(self, layer: str) -> None:
        """Raise CorruptError or LimitError if these numbers, which come from a file, make no legal
        grid.
        """
        if self.data_bytes == 0:
            if (self.block_rows, self.col_bands, self.panel_rows) != (0, 0, 0) or self.row_groups:
                raise CorruptError(f"layer {layer!r}: has no data, but a block grid that is not 0")
            return
        if min(self.block_rows, self.col_bands, self.panel_rows) < 1:
            raise CorruptError(
                f"layer {layer!r}: block_rows {self.block_rows}, col_bands {self.col_bands}, "
                f"panel_rows {self.panel_rows}: each is at least 1"
            )
        if self.col_bands > max(1, self.cols // COLUMN_STEP):
            raise CorruptError(
                f"layer {layer!r}: {self.col_bands} column bands of {self.cols} columns, "
                f"expected at most {max(1, self.cols // COLUMN_STEP)}"
            )
        if not self.row_groups and self.panel_rows != self.rows:
            raise CorruptError(
                f"layer {layer!r}: panel_rows is {self.panel_rows} without row groups, "
                f"expected {self.rows}"
            )
        if self.panel_rows > self.rows:
            raise CorruptError(
                f"layer {layer!r}: panel_rows is {self.panel_rows}, expected at most {self.rows}"
            )
        panel_bytes = self.panel_rows * self.row_bytes
        if self.row_groups and (self.panel_rows > MAX_PANEL_ROWS or panel_bytes > MAX_BAND_BYTES):
            raise CorruptError(
                f"layer {layer!r}: a panel holds {self.panel_rows} rows of {self.row_bytes} bytes, "
                f"expected at most {MAX_PANEL_ROWS} rows and {MAX_BAND_BYTES} bytes"
            )
        height, width = self.largest_block()
        if self.block_rows > 1 and height * self.row_bytes > MAX_BAND_BYTES:
            raise CorruptError(
                f"layer {layer!r}: a row band holds {height * self.row_bytes} bytes, "
                f"expected at most {MAX_BAND_BYTES}"
            )
        units = height * width
        if units > batch.MAX_BLOCK_UNITS or units * self.unit_bytes > batch.MAX_BLOCK_BYTES:
            raise CorruptError(
                f"layer {layer!r}: a block holds up to {units} units of {self.unit_bytes} bytes, "
                f"expected at most {batch.MAX_BLOCK_UNITS} units and {batch.MAX_BLOCK_BYTES} bytes"
            )

    def first_rows(self, size: int) -> "Grid":
        """The grid of as many rows as fit into `size` bytes, cut into blocks that are about as
        large; of a part of the first row where not even that fits. The layer has data.
        """
        rows = min(self.rows, size // self.row_bytes)
        if rows > 0:
            block_rows = min(self.block_rows, rows)
            col_bands = max(1, self.col_bands * block_rows // self.block_rows)
            panel_rows = min(self.panel_rows, rows)
            return self._replace(
                rows=rows, block_rows=block_rows, col_bands=col_bands, panel_rows=panel_rows
            )
        cols = max(1, size // self.unit_bytes)
        col_bands = max(1, self.col_bands * cols // self.cols)
        return Grid(1, cols, self.unit_bytes, 1, col_bands, 1, False)

    def windows(self, aim_bytes: int) -> Iterator[Window]:
        """Yield windows of about aim_bytes bytes, in order; together they cover the layer exactly
        once.
        """
        if self.data_bytes == 0:
            return
        if self.row_groups:
            n_panels = -(-self.rows // self.panel_rows)
            for panel in range(n_panels):
                first, last = band_edges(n_panels, self.rows, panel, panel + 1).tolist()
                rows = last - first
                yield Window(first * self.row_bytes, rows * self.row_bytes, rows, None)
            return
        n_bands = bands(self.rows, self.block_rows)
        if n_bands == self.rows and self.row_bytes > aim_bytes:
            yield from self._row_windows(aim_bytes)
            return
        if self.data_bytes <= aim_bytes and n_bands * self.col_bands <= MAX_KEPT_BLOCKS:
            yield _whole_window(self)
            return
        at_once = max(1, aim_bytes * n_bands // self.data_bytes)
        for band in range(0, n_bands, at_once):
            yield self._row_bands(n_bands, band, min(band + at_once, n_bands))

    def _row_bands(self, n_bands: int, begin: int, end: int) -> Window:
        """The window of row bands begin to end - 1 of n_bands."""
        rows = band_edges(n_bands, self.rows, begin, end)
        first, last = int(rows[0]), int(rows[-1])
        descriptors = self.descriptors(rows - first, self.column_edges(0, self.col_bands))
        start, size = first * self.row_bytes, (last - first) * self.row_bytes
        return Window(start, size, last - first, descriptors)

    @property
    def n_blocks(self) -> int:
        """Number of blocks of a layer that has data and no row groups."""
        return bands(self.rows, self.block_rows) * self.col_bands

    def _row_windows(self, aim_bytes: int) -> Iterator[Window]:
        """Windows within single rows, for rows too long for one window."""
        at_once = max(1, aim_bytes * self.col_bands // self.row_bytes)
        for row in range(self.rows):
            for band in range(0, self.col_bands, at_once):
                edges = self.column_edges(band, min(band + at_once, self.col_bands))
                first, last = int(edges[0]), int(edges[-1])
                descriptors = self.descriptors(np.array([0, 1]), edges - first)
                start = row * self.row_bytes + first * self.unit_bytes
                yield Window(start, (last - first) * self.unit_bytes, 1, descriptors)

    def descriptors(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.void]:
        """Descriptors of the blocks between these row and column edges, row bands first."""
        shape = (len(rows) - 1, len(columns) - 1)
        found = np.zeros(shape, dtype=batch.DESCRIPTOR)
        found["matrix_offset"] = rows[:-1, None] * self.row_bytes + columns[:-1] * self.unit_bytes
        found["row_stride"] = self.row_bytes
        found["row_index_first"] = batch.NO_ROW_INDEX
        found["rows"] = (rows[1:] - rows[:-1])[:, None]
        found["cols"] = columns[1:] - columns[:-1]
        return found.reshape(-1)

    def group_descriptors(
        self, groups: NDArray[np.uint8]
    ) -> tuple[NDArray[np.void], NDArray[np.uint32]]:
        """Descriptors of the blocks of a panel whose rows have these group numbers, and the row
        index they refer to.
        """
        columns = self.column_edges(0, self.col_bands)
        row_index = np.argsort(groups, kind="stable").astype(np.uint32)
        parts = []
        first = 0
        for n in np.bincount(groups, minlength=1).tolist():
            if n == 0:
                continue
            n_bands = bands(n, self.block_rows)
            edges = band_edges(n_bands, n, 0, n_bands)
            part = self.descriptors(edges, columns).reshape(len(edges) - 1, -1)
            part["matrix_offset"] = columns[:-1] * self.unit_bytes
            part["row_index_first"] = first + edges[:-1, None]
            parts.append(part.reshape(-1))
            first += n
        return np.concatenate(parts), row_index


@functools.lru_cache(maxsize=64)
def _whole_window(grid: Grid) -> Window:
    """The one window of a small grid; layers of a model have few shapes."""
    n_bands = bands(grid.rows, grid.block_rows)
    window = grid._row_bands(n_bands, 0, n_bands)
    assert window.descriptors is not None
    window.descriptors.flags.writeable = False
    return window


def all_blocks(grids: Sequence[Grid]) -> NDArray[np.void]:
    """Descriptors of all blocks of layers that have data and no row groups, one layer after the
    other, each as in a matrix of its own.

    The caller knows that there are so many blocks: a grid, which comes from a file, may ask for
    any number.
    """
    numbers = [
        (g.rows, g.cols, g.row_bytes, g.unit_bytes, bands(g.rows, g.block_rows), g.col_bands)
        for g in grids
    ]
    of_grids = np.array(numbers, np.int64).T
    n_blocks = of_grids[-2] * of_grids[-1]
    first = (n_blocks.cumsum() - n_blocks).repeat(n_blocks)
    rows, cols, row_bytes, unit_bytes, n_bands, col_bands = of_grids.repeat(n_blocks, axis=1)
    band, column = np.divmod(np.arange(len(first)) - first, col_bands)
    top, bottom = (_band_edge(i, n_bands, rows) for i in (band, band + 1))
    steps = cols // COLUMN_STEP
    left, right = (_band_edge(i, col_bands, steps) * COLUMN_STEP for i in (column, column + 1))
    right = np.where(column + 1 == col_bands, cols, right)
    found = np.empty(len(first), batch.DESCRIPTOR)
    found["matrix_offset"] = top * row_bytes + left * unit_bytes
    found["row_stride"] = row_bytes
    found["data_offset"] = 0
    found["row_index_first"] = batch.NO_ROW_INDEX
    found["rows"] = bottom - top
    found["cols"] = right - left
    return found


def _band_edge(
    i: NDArray[np.int64], n_bands: NDArray[np.int64], n: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where the i-th of n_bands balanced bands of n rows begins: i * n // n_bands, without a
    product that overflows for less than 2^31 bands.
    """
    return i * (n // n_bands) + i * (n % n_bands) // n_bands


def matrix_shape(
    shape: tuple[int, ...], data_bytes: int, unit_bytes: int, row_axes: int
) -> tuple[int, int]:
    """Rows and columns, in units, of the matrix view of a layer that has data."""
    rows = prod(shape[:row_axes])
    return rows, data_bytes // (rows * unit_bytes)
