"""What to try for a layer: coding family, grid, field maps, row groups. A plan is a request; the
blocks say what came of it.

A plan depends on the dtype, the shape and a sample (the first SAMPLE_BYTES of the layer, which a
pipe can give too), never on other layers, threads or backends. Costs are integers.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wcodec import zstd_frame
from wcodec.codec import batch, rans32
from wcodec.codec.coding import TRIAL_SHARE_UNIT, Plan, trial_share
from wcodec.codec.layout import COLUMN_STEP, Grid, matrix_shape
from wcodec.codec.spatial import FLOAT_FORMS, FORMS, SpatialOptions, spatial_pays
from wcodec.codec.structure import row_groups_pay
from wcodec.dtypes import unit_bytes

LEVELS = ("default", "max")
BLOCK_ELEMENTS = {"default": 128 << 10, "max": 1 << 20}
MIN_BLOCK_ELEMENTS = 1 << 10
MAX_BLOCK_ELEMENTS = 4 << 20
SINGLE_STREAM_ELEMENTS = 64 << 10  # smaller layers have one stream a block
WIDE_BLOCK_COLUMNS = 1024
LONG_AXIS = 256
LZ_BLOCK_BYTES = 8 << 20
WINDOW_BYTES = 32 << 20
SAMPLE_BYTES = WINDOW_BYTES
TRIAL_BYTES = 1 << 19
MAX_ZSTD_LEVEL = 19
MIN_GAIN_SHARE = 1024  # a coding that decodes slower must save more than 1 / 1024

# rans16 decodes bytes three times as fast as rans32 (AVX2), and on GPUs too: there it stays unless
# another coding saves more than 1 / 128. (Its 8-bit probabilities and 16-bit states cost some 0.03
# bits of 7.)
MIN_RANS16_GAIN_SHARE = 128

FORM_SETS = {"BF16": batch.BF16_FORMS, "F16": batch.FP16_FORMS, "F32": batch.FP32_FORMS}
BYTE_FORM_SETS = {
    "U8": batch.INT8_FORMS,
    "I8": batch.INT8_FORMS,
    "BOOL": batch.INT8_FORMS,
    "F8_E8M0": batch.INT8_FORMS,
    "F8_E4M3": batch.FP8_FORMS,
    "F8_E4M3FNUZ": batch.FP8_FORMS,
    "F8_E5M2": batch.FP8_FORMS,
    "F8_E5M2FNUZ": batch.FP8_FORMS,
}


def plan_layer(
    dtype: str,
    shape: tuple[int, ...],
    data_bytes: int,
    sample: NDArray[np.uint8],
    level: str,
    block_elements: int,
    spatial: SpatialOptions,
) -> Plan:
    """Plan a layer from its first bytes (all of them, or SAMPLE_BYTES at least)."""
    w = unit_bytes(dtype)
    if data_bytes == 0:
        return Plan(batch.RAW, 0, Grid(0, 0, w, 0, 0, 0, False))
    thorough = level == "max"
    row_axes = choose_row_axes(shape)
    rows, cols = matrix_shape(dtype, shape, data_bytes, row_axes)
    grid = choose_grid(rows, cols, w, block_elements)
    if dtype in FORM_SETS and not thorough:
        return _plan_rans16(row_axes, _with_row_groups(dtype, grid, sample), FORM_SETS[dtype])
    trial = sample[:TRIAL_BYTES]
    best, share = _plan_lz(w, data_bytes, trial)
    if dtype in BYTE_FORM_SETS and not thorough:
        fast = _plan_rans16(row_axes, grid, BYTE_FORM_SETS[dtype])
        own = trial_share(fast, trial)
        if own < TRIAL_SHARE_UNIT and own - own // MIN_RANS16_GAIN_SHARE <= share:
            best, share = fast, own
    for plan in (
        _plan_rans32(dtype, row_axes, grid, sample, thorough),
        _plan_spatial(dtype, row_axes, grid, sample, spatial, thorough),
    ):
        if plan is None:
            continue
        own = trial_share(plan, trial)
        # What comes later decodes slower than what came before.
        is_fast = best.family == batch.RANS16
        gain = share // (MIN_RANS16_GAIN_SHARE if is_fast else MIN_GAIN_SHARE)
        if own + (0 if thorough else gain) < share:
            best, share = plan, own
    if share < TRIAL_SHARE_UNIT:
        slow = thorough and best.family == batch.LZ
        return replace(best, zstd_level=MAX_ZSTD_LEVEL) if slow else best
    return Plan(batch.RAW, 0, choose_grid(1, data_bytes // w, w, block_elements))


def _plan_rans16(row_axes: int, grid: Grid, form_set: int) -> Plan:
    n_streams = 1 if grid.rows * grid.cols < SINGLE_STREAM_ELEMENTS else 2
    return Plan(batch.RANS16, row_axes, grid, form_set=form_set, n_streams=n_streams)


def _plan_rans32(
    dtype: str, row_axes: int, grid: Grid, sample: NDArray[np.uint8], thorough: bool
) -> Plan | None:
    splits = rans32.splits(dtype, thorough)
    if splits == 0:
        return None
    grid = _with_row_groups(dtype, grid, sample)
    options = (rans32.exponent_bits(dtype), thorough)
    return Plan(batch.RANS32, row_axes, grid, form_set=splits, rans32=options)


def _plan_spatial(
    dtype: str,
    row_axes: int,
    grid: Grid,
    sample: NDArray[np.uint8],
    options: SpatialOptions,
    thorough: bool,
) -> Plan | None:
    form = (FORMS | FLOAT_FORMS if thorough else FORMS).get(dtype)
    if form is None or not spatial_pays(sample, form, grid.cols, grid.unit_bytes, options):
        return None
    sets = (form, options.tile_log2, options.predictor_set, options.transform_set)
    return Plan(batch.SPATIAL, row_axes, grid, spatial=sets)


def _plan_lz(w: int, data_bytes: int, sample: NDArray[np.uint8]) -> tuple[Plan, int]:
    """With byte shuffling where that makes the sample smaller; and what it makes of the sample."""
    sample = sample[: len(sample) // w * w]
    size = plain = len(zstd_frame.compress(sample.data))
    if w > 1:
        size = min(plain, len(zstd_frame.compress(batch.shuffle_bytes(sample, w).data)))
    grid = choose_grid(1, data_bytes // w, w, LZ_BLOCK_BYTES // w)
    plan = Plan(batch.LZ, 0, grid, shuffle=size < plain)
    return plan, size * TRIAL_SHARE_UNIT // len(sample)


def _with_row_groups(dtype: str, grid: Grid, sample: NDArray[np.uint8]) -> Grid:
    """The grid with rows sorted by structure where that pays."""
    if dtype != "F32" or not row_groups_pay(sample, grid.cols):
        return grid
    panel_rows = min(grid.rows, max(1, WINDOW_BYTES // grid.row_bytes))
    return replace(grid, panel_rows=panel_rows, row_groups=True)


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
