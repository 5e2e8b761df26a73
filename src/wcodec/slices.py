# SPDX-License-Identifier: Apache-2.0
"""A part of a layer: which of its blocks a selection touches, and decoding those alone.

A selection is given axis by axis, as positions in rising order. It becomes runs of rows and runs of
columns of the matrix view; those touch row bands (or panels) and column bands of the grid. The
blocks of touched bands are read, neighbours in one request, and decoded: straight into the result
where they lie in it as a whole, else into a scratch matrix of the touched bands, from which the
selected rows and columns are taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wcodec import dtypes
from wcodec.codec import batch
from wcodec.codec.layout import Grid, band_edges, bands
from wcodec.container import Layer, LayerHead
from wcodec.errors import CorruptError
from wcodec.memory import Budget
from wcodec.windows import grid_of

Positions = range | NDArray[np.int64]  # of one axis, in rising order, none twice

_Ints = NDArray[np.int64]
_Bytes = NDArray[np.uint8]


class Runs(NamedTuple):
    """Rows or columns of a matrix: `length` of them from each of `starts`, which rise."""

    starts: _Ints
    length: int

    @property
    def n(self) -> int:
        return len(self.starts) * self.length

    def before(self, edges: _Ints) -> _Ints:
        """How many selected places lie before each edge."""
        run = np.searchsorted(self.starts, edges, side="right") - 1
        inside = edges - self.starts[np.maximum(run, 0)]
        counted = run * self.length + np.minimum(inside, self.length)
        return np.where(run < 0, 0, counted)

    def between(self, first: int, last: int) -> slice | _Ints:
        """The selected places from `first` to `last`, exclusive, counted from `first`."""
        low, high = (int(n) for n in self.before(np.array([first, last])))
        if len(self.starts) == 1:
            start = max(int(self.starts[0]), first) - first
            return slice(start, start + high - low)
        ranks = np.arange(low, high)
        return self.starts[ranks // self.length] + ranks % self.length - first


def runs(shape: Sequence[int], positions: Sequence[Positions]) -> Runs:
    """Where the selected positions of these axes lie when the axes are laid out as one."""
    length = 1
    axis = len(shape)
    while axis and len(positions[axis - 1]) == shape[axis - 1]:  # whole axes make longer runs
        axis -= 1
        length *= shape[axis]
    starts = np.zeros(1, dtype=np.int64)
    for i in range(axis):
        places = np.asarray(positions[i], dtype=np.int64) * prod(shape[i + 1 :])
        if i == axis - 1 and len(places) and _contiguous(positions[i]):
            length *= len(places)
            places = places[:1]
        starts = (starts[:, None] + places).reshape(-1)
    return Runs(starts, length)


def matrix_runs(head: LayerHead, positions: Sequence[Positions]) -> tuple[Runs, Runs]:
    """The rows and the columns of the matrix view that positions of the axes select."""
    k = head.row_axes
    parts = dtypes.unit_bytes(head.dtype) // head.unit_bytes  # of an element, all of them wanted
    rows = runs(head.shape[:k], positions[:k])
    return rows, runs((*head.shape[k:], parts), (*positions[k:], range(parts)))


def _contiguous(positions: Positions) -> bool:
    return bool(positions[-1] - positions[0] == len(positions) - 1)


def decode_selection(
    layer: Layer, positions: Sequence[Positions], budget: Budget
) -> tuple[_Bytes, int]:
    """Decode the part of a stored layer at these positions of its axes.

    Returns its bytes, in C order, and how many blocks were decoded for it. The dtype has elements
    of whole bytes. Raises CorruptError and what reading raises.
    """
    head = layer.head
    grid = grid_of(head)
    largest = dtypes.unit_bytes(head.dtype)
    n_bytes = prod(len(places) for places in positions) * largest
    out = batch.aligned_empty(n_bytes)
    if n_bytes == 0:
        return out, 0
    rows, cols = matrix_runs(head, positions)
    walk = _panel_pieces if grid.row_groups else _band_pieces
    n_blocks = 0
    for piece in walk(layer, grid, rows, cols, budget):
        _decode_piece(layer, grid, piece, out.reshape(rows.n, -1), budget)
        n_blocks += len(piece.numbers)
    return out, n_blocks


class _Piece(NamedTuple):
    """Blocks to decode together, by number, and what of them is wanted.

    They fill `height` rows of a scratch matrix, whose columns are those of the touched column bands
    side by side. `take_*` are the selected rows and columns of it, which belong at `put_row` and
    `put_col` of the result.
    """

    numbers: _Ints
    descriptors: NDArray[np.void]  # places in the scratch matrix
    row_index: NDArray[np.uint32]
    height: int
    width: int
    take_rows: slice | _Ints
    take_cols: slice | _Ints
    put_row: int
    put_col: int


def _decode_piece(layer: Layer, grid: Grid, piece: _Piece, out: _Bytes, budget: Budget) -> None:
    unit = grid.unit_bytes
    height, row_bytes = piece.height, piece.width * unit
    n_rows = _length(piece.take_rows)
    n_cols = _length(piece.take_cols)
    first, last = piece.put_col * unit, (piece.put_col + n_cols) * unit
    place = out[piece.put_row : piece.put_row + n_rows, first:last]
    descriptors = piece.descriptors
    direct = not grid.row_groups and (n_rows, n_cols) == (height, piece.width)
    if direct:
        # The same matrix with the rows of the result, which are longer.
        stride = out.shape[1]
        descriptors = descriptors.copy()
        row, col = np.divmod(descriptors["matrix_offset"], row_bytes)
        descriptors["matrix_offset"] = row * stride + col
        descriptors["row_stride"] = stride
        start = piece.put_row * stride + first
        end = start + (height - 1) * stride + row_bytes
        target = out.reshape(-1)[start:end]
    else:
        target = batch.aligned_empty(height * row_bytes)
    batch.decode_blocks(
        _read(layer, piece.numbers),
        layer.head.family,
        descriptors,
        piece.row_index,
        target,
        unit,
        threads=budget.threads,
        layer=layer.head.name,
        numbers=piece.numbers,
    )
    if not direct:
        scratch = target.view(f"V{unit}").reshape(height, piece.width)
        chosen = scratch[piece.take_rows][:, piece.take_cols]
        place[...] = np.ascontiguousarray(chosen).view(np.uint8).reshape(n_rows, -1)


def _length(places: slice | _Ints) -> int:
    return places.stop - places.start if isinstance(places, slice) else len(places)


def _read(layer: Layer, numbers: _Ints) -> batch.Blocks:
    sizes = layer.offsets[numbers + 1] - layer.offsets[numbers]
    data = np.empty(int(sizes.sum()) + batch.READ_SLACK_BYTES, dtype=np.uint8)
    read_blocks(layer, numbers, data)
    return batch.Blocks(layer.headers[numbers], data)


def read_blocks(layer: Layer, numbers: _Ints, out: _Bytes) -> None:
    """Read blocks, whose numbers rise, back to back into `out`, which has READ_SLACK_BYTES more:
    neighbours in one request.
    """
    at = 0
    for first, last in _neighbours(numbers):
        taken = layer.read_blocks(first, last - first, out=out[at:])
        at += taken.n_bytes


def _neighbours(numbers: _Ints) -> Iterator[tuple[int, int]]:
    """First and last, exclusive, of each run of consecutive numbers."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    edges = [0, *breaks.tolist(), len(numbers)]
    for first, last in pairwise(edges):
        if last > first:
            yield int(numbers[first]), int(numbers[last - 1]) + 1


class _Columns(NamedTuple):
    """Touched column bands side by side: their numbers, edges in that order, and what is selected
    of them.
    """

    touched: _Ints
    edges: _Ints
    take: slice | _Ints
    put: int

    @property
    def width(self) -> int:
        return int(self.edges[-1])


def _columns(grid: Grid, cols: Runs, at_once: int) -> Iterator[_Columns]:
    """The touched column bands, `at_once` of them."""
    edges = grid.column_edges(0, grid.col_bands)
    counts = cols.before(edges)
    all_touched = np.flatnonzero(np.diff(counts))
    for i in range(0, len(all_touched), at_once):
        touched = all_touched[i : i + at_once]
        widths = edges[touched + 1] - edges[touched]
        places = np.concatenate([[0], np.cumsum(widths)])
        takes: list[slice | _Ints] = []
        for (first, last), place in zip(
            _neighbours(touched), _places(touched, places), strict=True
        ):
            take = cols.between(int(edges[first]), int(edges[last]))
            takes.append(_shifted(take, place))
        take = takes[0] if len(takes) == 1 else np.concatenate([_listed(t) for t in takes])
        yield _Columns(touched, places, take, int(counts[touched[0]]))


def _places(numbers: _Ints, places: _Ints) -> Iterator[int]:
    """Where each run of consecutive numbers begins."""
    at = 0
    for first, last in _neighbours(numbers):
        yield int(places[at])
        at += last - first


def _shifted(places: slice | _Ints, by: int) -> slice | _Ints:
    if isinstance(places, slice):
        return slice(places.start + by, places.stop + by)
    return places + by


def _listed(places: slice | _Ints) -> _Ints:
    return np.arange(places.start, places.stop) if isinstance(places, slice) else places


def _band_pieces(
    layer: Layer, grid: Grid, rows: Runs, cols: Runs, budget: Budget
) -> Iterator[_Piece]:
    """Pieces of a grid without row groups: consecutive touched row bands, those that lie in the
    selection as a whole apart from the others.
    """
    n_bands = bands(grid.rows, grid.block_rows)
    layer.check_count(n_bands * grid.col_bands)
    edges = band_edges(n_bands, grid.rows, 0, n_bands)
    counts = rows.before(edges)
    selected, heights = np.diff(counts), np.diff(edges)
    kinds = (selected > 0).astype(np.int8) + (selected == heights)
    breaks = np.flatnonzero(np.diff(kinds)) + 1
    starts = [0, *breaks.tolist(), n_bands]
    largest = max(int(heights.max()) * grid.unit_bytes, 1)
    block_width = max(1, -(-grid.cols // grid.col_bands))
    cols_at_once = max(1, budget.window_bytes // (largest * block_width))
    for part in _columns(grid, cols, cols_at_once):
        at_once = max(1, budget.window_bytes // (largest * part.width))
        for first, last in pairwise(starts):
            for begin in range(first, last if kinds[first] else first, at_once):
                end = min(begin + at_once, last)
                top, bottom = int(edges[begin]), int(edges[end])
                numbers = np.arange(begin, end)[:, None] * grid.col_bands + part.touched
                yield _Piece(
                    numbers.reshape(-1),
                    _descriptors(grid, edges[begin : end + 1] - top, part),
                    batch.NO_ROWS,
                    bottom - top,
                    part.width,
                    rows.between(top, bottom),
                    part.take,
                    int(counts[begin]),
                    part.put,
                )


def _descriptors(grid: Grid, rows: _Ints, part: _Columns) -> NDArray[np.void]:
    """Descriptors of blocks in a scratch matrix."""
    row_bytes = part.width * grid.unit_bytes
    found = grid.descriptors(rows, part.edges).reshape(len(rows) - 1, -1)
    found["matrix_offset"] = rows[:-1, None] * row_bytes + part.edges[:-1] * grid.unit_bytes
    found["row_stride"] = row_bytes
    return found.reshape(-1)


class Panel(NamedTuple):
    """A panel of a grid with row groups: its rows, the number of its map among the blocks, and the
    descriptors of the blocks after that in the panel, with the row index they refer to.
    """

    first_row: int
    last_row: int  # exclusive
    map_number: int
    descriptors: NDArray[np.void]
    row_index: NDArray[np.uint32]


def touched_panels(layer: Layer, grid: Grid, rows: Runs) -> Iterator[Panel]:
    """The panels that hold selected rows, their maps read and checked. Raises CorruptError."""
    n_panels = -(-grid.rows // grid.panel_rows)
    maps = np.flatnonzero(layer.headers["coding"] == batch.ROW_GROUPS)
    if len(maps) != n_panels:
        raise CorruptError(
            f"layer {layer.head.name!r:.200}: has {len(maps)} row-group maps, expected {n_panels}"
        )
    edges = band_edges(n_panels, grid.rows, 0, n_panels)
    for panel in np.flatnonzero(np.diff(rows.before(edges))).tolist():
        first, last = int(edges[panel]), int(edges[panel + 1])
        number = int(maps[panel])
        groups = batch.decode_row_groups(
            _read(layer, np.array([number])),
            last - first,
            layer=layer.head.name,
            first_block=number,
        )
        descriptors, row_index = grid.group_descriptors(groups)
        end = int(maps[panel + 1]) if panel + 1 < n_panels else len(layer.headers)
        if end - number - 1 != len(descriptors):
            raise CorruptError(
                f"layer {layer.head.name!r:.200}: panel {panel} has {end - number - 1} blocks, "
                f"its map makes {len(descriptors)}"
            )
        yield Panel(first, last, number, descriptors, row_index)


def _panel_pieces(
    layer: Layer, grid: Grid, rows: Runs, cols: Runs, budget: Budget
) -> Iterator[_Piece]:
    """Pieces of a grid with row groups, a touched panel each; its map says which blocks the rows
    are in.
    """
    (part,) = _columns(grid, cols, grid.col_bands)
    for panel in touched_panels(layer, grid, rows):
        first, last, row_index = panel.first_row, panel.last_row, panel.row_index
        take = rows.between(first, last)
        wanted = np.zeros(last - first, dtype=np.int64)
        wanted[take] = 1
        before = np.concatenate([[0], np.cumsum(wanted[row_index])])
        by_band = panel.descriptors.reshape(-1, grid.col_bands)
        begin = by_band["row_index_first"][:, 0].astype(np.int64)
        touched = np.flatnonzero(before[begin + by_band["rows"][:, 0]] - before[begin])
        blocks = by_band[touched][:, part.touched]
        blocks["matrix_offset"] = part.edges[:-1] * grid.unit_bytes
        blocks["row_stride"] = part.width * grid.unit_bytes
        numbers = touched[:, None] * grid.col_bands + part.touched + panel.map_number + 1
        yield _Piece(
            numbers.reshape(-1),
            blocks.reshape(-1),
            row_index,
            last - first,
            part.width,
            take,
            part.take,
            int(rows.before(np.array([first]))[0]),
            part.put,
        )
