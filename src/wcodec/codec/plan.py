"""What to try for a layer: coding family, grid, field maps, row groups. A plan is a request; the
blocks say what came of it.

A plan depends on the dtype, the shape and a sample (the first SAMPLE_BYTES of the layer, which a
pipe can give too), never on other layers, threads or backends. Costs are integers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wcodec import zstd_frame
from wcodec.codec import batch
from wcodec.codec.layout import COLUMN_STEP, Grid, matrix_shape
from wcodec.codec.spatial import FORMS, SpatialOptions, spatial_bits
from wcodec.codec.structure import row_groups_pay
from wcodec.dtypes import unit_bytes

DEFAULT_BLOCK_ELEMENTS = 128 << 10
MIN_BLOCK_ELEMENTS = 1 << 10
MAX_BLOCK_ELEMENTS = 4 << 20
SINGLE_STREAM_ELEMENTS = 64 << 10  # smaller layers have one stream a block
WIDE_BLOCK_COLUMNS = 1024
LONG_AXIS = 256
LZ_BLOCK_BYTES = 8 << 20
WINDOW_BYTES = 32 << 20
SAMPLE_BYTES = WINDOW_BYTES
LZ_TRIAL_BYTES = 1 << 20
ZSTD_LEVEL = zstd_frame.LEVEL

FORM_SETS = {"BF16": batch.BF16_FORMS, "F16": batch.FP16_FORMS, "F32": batch.FP32_FORMS}


@dataclass(frozen=True)
class Plan:
    family: int
    row_axes: int
    grid: Grid
    form_set: int
    n_streams: int
    shuffle: bool
    spatial: tuple[int, int, int, int] = (0, 0, 0, 0)  # form, tile_log2 and sets for the core


def plan_layer(
    dtype: str,
    shape: tuple[int, ...],
    data_bytes: int,
    sample: NDArray[np.uint8],
    block_elements: int,
    spatial: SpatialOptions,
) -> Plan:
    """Plan a layer from its first bytes (all of them, or SAMPLE_BYTES at least)."""
    w = unit_bytes(dtype)
    if data_bytes == 0:
        return Plan(batch.RAW, 0, Grid(0, 0, w, 0, 0, 0, False), 0, 0, False)
    form_set = FORM_SETS.get(dtype, 0)
    if form_set:
        return _plan_rans16(dtype, shape, data_bytes, sample, block_elements, form_set)
    trial = sample[:LZ_TRIAL_BYTES]
    lz_bytes, shuffle = _choose_lz(trial, w)
    row_axes = choose_row_axes(shape)
    rows, cols = matrix_shape(dtype, shape, data_bytes, row_axes)
    bits = spatial_bits(sample, dtype, cols, w, spatial)
    if bits is not None and bits * (len(trial) // w) < 8 * lz_bytes:
        grid = choose_grid(rows, cols, w, block_elements)
        sets = (FORMS[dtype], spatial.tile_log2, spatial.predictor_set, spatial.transform_set)
        return Plan(batch.SPATIAL, row_axes, grid, 0, 0, False, sets)
    pays = lz_bytes < len(trial) // w * w
    block_units = LZ_BLOCK_BYTES // w if pays else min(block_elements, LZ_BLOCK_BYTES // w)
    grid = choose_grid(1, data_bytes // w, w, block_units)
    return Plan(batch.LZ if pays else batch.RAW, 0, grid, 0, 0, shuffle)


def _plan_rans16(
    dtype: str,
    shape: tuple[int, ...],
    data_bytes: int,
    sample: NDArray[np.uint8],
    block_elements: int,
    form_set: int,
) -> Plan:
    w = unit_bytes(dtype)
    row_axes = choose_row_axes(shape)
    rows, cols = matrix_shape(dtype, shape, data_bytes, row_axes)
    grid = choose_grid(rows, cols, w, block_elements)
    if dtype == "F32" and row_groups_pay(sample, cols):
        panel_rows = min(rows, max(1, WINDOW_BYTES // grid.row_bytes))
        grid = Grid(rows, cols, w, grid.block_rows, grid.col_bands, panel_rows, True)
    n_streams = 1 if rows * cols < SINGLE_STREAM_ELEMENTS else 2
    return Plan(batch.RANS16, row_axes, grid, form_set, n_streams, False)


def choose_row_axes(shape: tuple[int, ...]) -> int:
    """How many leading axes form the rows: all but a long last one; else the first (output channels
    of a convolution).
    """
    if len(shape) < 2:
        return 0
    return len(shape) - 1 if shape[-1] >= LONG_AXIS else 1


def choose_grid(rows: int, cols: int, w: int, block_units: int) -> Grid:
    """Cut a matrix into blocks of about block_units units, up to 1024 columns wide where it is
    wide.
    """
    block_units = min(block_units, batch.MAX_BLOCK_UNITS // 2, batch.MAX_BLOCK_BYTES // (2 * w))
    width = min(cols, max(WIDE_BLOCK_COLUMNS, _round_up(-(-block_units // rows))))
    block_rows = max(1, min(rows, block_units // width))
    # A row band must fit a window; long rows make flat blocks.
    if block_rows > 1 and block_rows * cols * w > WINDOW_BYTES:
        block_rows = max(1, WINDOW_BYTES // (cols * w))
        width = min(cols, max(WIDE_BLOCK_COLUMNS, _round_up(block_units // block_rows)))
    col_bands = min(-(-cols // width), max(1, cols // COLUMN_STEP))
    return Grid(rows, cols, w, block_rows, col_bands, rows, False)


def _round_up(columns: int) -> int:
    return -(-columns // COLUMN_STEP) * COLUMN_STEP


def _choose_lz(sample: NDArray[np.uint8], w: int) -> tuple[int, bool]:
    """Bytes that zstd needs for a sample, and whether byte shuffling makes them fewer."""
    sample = sample[: len(sample) // w * w]
    plain = len(zstd_frame.compress(sample.data, ZSTD_LEVEL))
    shuffled = (
        len(zstd_frame.compress(batch.shuffle_bytes(sample, w).data, ZSTD_LEVEL))
        if w > 1
        else plain
    )
    return min(plain, shuffled), shuffled < plain
