# SPDX-License-Identifier: Apache-2.0
"""The block grid: every unit in exactly one block, within the bounds, whatever the shape."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wcodec.codec import batch
from wcodec.codec.layout import MAX_BAND_BYTES, Grid, bands
from wcodec.codec.plan import MAX_BLOCK_ELEMENTS, WINDOW_BYTES, choose_grid, choose_row_axes
from wcodec.errors import CorruptError


def units_of(grid: Grid, window, descriptors, row_index) -> np.ndarray:
    """Unit numbers (within the window) of all blocks, block after block."""
    found = []
    for block in descriptors:
        rows = np.arange(int(block["rows"]))
        if block["row_index_first"] != batch.NO_ROW_INDEX:
            first = int(block["row_index_first"])
            rows = row_index[first : first + len(rows)]
        starts = int(block["matrix_offset"]) + rows * int(block["row_stride"])
        units = starts[:, None] // grid.unit_bytes + np.arange(int(block["cols"]))
        found.append(units.reshape(-1))
    return np.concatenate(found)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.integers(1, 1500),
    cols=st.integers(1, 1500),
    unit_bytes=st.sampled_from([1, 2, 4, 8]),
    block_rows=st.integers(1, 400),
    col_bands=st.integers(1, 30),
    aim=st.integers(1, 1 << 22),
)
def test_windows_cover_every_unit_once(rows, cols, unit_bytes, block_rows, col_bands, aim):
    col_bands = min(col_bands, max(1, cols // 128))
    grid = Grid(rows, cols, unit_bytes, block_rows, col_bands, rows, False)
    grid.check("layer")
    height, width = grid.largest_block()
    at = 0
    for window in grid.windows(aim):
        assert window.start == at
        units = units_of(grid, window, window.descriptors, None)
        assert np.array_equal(np.sort(units), np.arange(window.size // unit_bytes))
        assert window.descriptors["rows"].max() <= height
        assert window.descriptors["cols"].max() <= width
        at += window.size
    assert at == grid.data_bytes


@settings(max_examples=200, deadline=None)
@given(
    cols=st.integers(1, 1500),
    block_rows=st.integers(1, 50),
    groups=st.lists(st.integers(0, 7), min_size=1, max_size=300),
)
def test_group_blocks_cover_every_unit_once(cols, block_rows, groups):
    rows = len(groups)
    grid = Grid(rows, cols, 4, block_rows, max(1, min(3, cols // 128)), rows, True)
    grid.check("layer")
    (window,) = grid.windows(1 << 20)
    descriptors, row_index = grid.group_descriptors(np.array(groups, dtype=np.uint8))
    units = units_of(grid, window, descriptors, row_index)
    assert np.array_equal(np.sort(units), np.arange(rows * cols))
    height, width = grid.largest_block()
    assert descriptors["rows"].max() <= height
    assert descriptors["cols"].max() <= width
    for block in descriptors:  # all rows of a block are of one group, in their order
        first = int(block["row_index_first"])
        chosen = row_index[first : first + int(block["rows"])]
        assert len({groups[r] for r in chosen}) == 1
        assert np.all(np.diff(chosen.astype(int)) > 0)


@settings(max_examples=500, deadline=None)
@given(
    rows=st.integers(1, 1 << 40),
    cols=st.integers(1, 1 << 40),
    unit_bytes=st.sampled_from([1, 2, 4, 8]),
    block_units=st.integers(1 << 10, MAX_BLOCK_ELEMENTS),
)
def test_chosen_grids_are_legal_and_blocks_have_the_aimed_size(rows, cols, unit_bytes, block_units):
    grid = choose_grid(rows, cols, unit_bytes, block_units)
    grid.check("layer")
    height, width = grid.largest_block()
    aim = min(block_units, batch.MAX_BLOCK_BYTES // (2 * unit_bytes))
    assert height * width <= max(2 * aim, 2048)
    if rows * cols >= 2 * aim:
        n_blocks = bands(rows, grid.block_rows) * grid.col_bands
        assert rows * cols / n_blocks >= min(aim, WINDOW_BYTES // unit_bytes // 1024) / 4


def test_a_vector_beyond_2_31_elements_goes_in_windows():
    n = (1 << 31) + 129
    grid = choose_grid(1, n, 2, 128 << 10)
    sizes = [window.size for window in grid.windows(WINDOW_BYTES)]
    assert sum(sizes) == 2 * n
    assert max(sizes) <= WINDOW_BYTES + (1 << 20)


@pytest.mark.parametrize(
    ("shape", "row_axes"),
    [((), 0), ((5,), 0), ((3, 300), 1), ((64, 32, 3, 3), 1), ((8, 100, 300), 2), ((0, 4), 1)],
)
def test_row_axes(shape, row_axes):
    assert choose_row_axes(shape) == row_axes
    assert row_axes <= len(shape)


@pytest.mark.parametrize(
    "wrong",
    [
        Grid(10, 10, 2, 0, 1, 10, False),
        Grid(10, 10, 2, 1, 0, 10, False),
        Grid(10, 10, 2, 1, 1, 9, False),
        Grid(10, 10, 2, 1, 2, 10, False),
        Grid(10, 256, 2, 1, 3, 10, False),
        Grid(1 << 20, 1 << 20, 2, 200, 8192, 1 << 20, False),
        Grid(1 << 20, 1 << 10, 4, 1 << 17, 1, 1 << 20, False),
        Grid(1 << 20, 1 << 10, 4, 1, 1, 1 << 20, True),
        Grid(10, 10, 2, 1, 1, 11, True),
        Grid(0, 0, 4, 1, 1, 1, False),
        Grid(0, 0, 4, 0, 0, 0, True),
        Grid(1, (1 << 22) + 1, 8, 1, 1, 1, False),
        Grid(1, MAX_BAND_BYTES, 8, 1, 1, 1, False),
    ],
)
def test_illegal_grids_are_refused(wrong):
    with pytest.raises(CorruptError, match="layer 'x'"):
        wrong.check("x")


def test_bands_never_leave_a_small_remainder():
    for n in range(1, 500):
        for aim in range(1, 60):
            m = bands(n, aim)
            assert math.ceil(n / m) <= max(1.5 * aim, 1)
