"""What to try for a layer: coding family, grid, field maps, row groups. A plan is a request; the
blocks say what came of it.

A plan depends on the dtype, the shape and a sample (the first SAMPLE_BYTES of the layer, which a
pipe can give too), never on other layers, threads or backends. Costs are integers.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wcodec.codec import batch, rans32
from wcodec.codec.coding import TRIAL_SHARE_UNIT, Plan, Trial, try_plan
from wcodec.codec.layout import COLUMN_STEP, Grid, matrix_shape
from wcodec.codec.spatial import FLOAT_FORMS, FORMS, SpatialOptions, spatial_pays
from wcodec.codec.structure import row_groups_pay
from wcodec.dtypes import bits, unit_bytes

LEVELS = ("default", "max")
BLOCK_ELEMENTS = {"default": 128 << 10, "max": 1 << 20}
MIN_BLOCK_ELEMENTS = 1 << 10
MAX_BLOCK_ELEMENTS = 4 << 20
# Smaller layers have one stream a block, whose states take 256 bytes. Two streams are for many GPU
# warps and for AVX-512, which decodes both in one loop, but not units of a byte.
SINGLE_STREAM_UNITS = 128 << 10
SINGLE_STREAM_BYTES = 4 << 20  # of units of a byte
WIDE_BLOCK_COLUMNS = 1024
LONG_AXIS = 256
LZ_BLOCK_BYTES = 8 << 20
WINDOW_BYTES = 32 << 20
SAMPLE_BYTES = WINDOW_BYTES
TRIAL_BYTES = 1 << 19
MAX_ZSTD_LEVEL = 19
MIN_GAIN_SHARE = 1024  # a coding that decodes slower must save more than 1 / 1024

# rans16 decodes bytes three times as fast as rans32 (AVX2): there it stays unless another coding
# saves more than 1 / 128, or 1 / 160 of a layer with single streams, which is small. (Its 8-bit
# probabilities and 16-bit states cost some 0.03 bits of 7, a second stream 0.015.)
# Of wider floats it stays unless another saves more than 1 / 50, or 1 / 256 of a layer with single
# streams, and others are tried only on such small layers, where its states and table weigh more,
# and on unusual ones: none negative, as squares are, whose sign rans16 stores; many of them equal;
# or rows or columns of different scales, which want tables of their own.
MIN_RANS16_BYTES_GAIN_SHARE = (160, 128)
MIN_RANS16_FLOATS_GAIN_SHARE = (256, 50)
MIN_TRIED_UNITS = 4 << 10
PICKED = 4096
FEW = 512
MIN_EQUAL_SHARE = 8
PICKED_LINES = 64
MIN_UNEVEN_SHARE = 7

FORM_SETS = {"BF16": batch.BF16_FORMS, "F16": batch.FP16_FORMS, "F32": batch.FP32_FORMS}
FP8_DTYPES = ("F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ")

# What elements may be taken for, when they are cut into smaller units. 4-bit and 8-bit weights are
# often packed into wider integers.
PARTS = {"C64": "F32", **dict.fromkeys(("I16", "U16", "I32", "U32", "I64", "U64"), "U8")}


def plan_layer(
    dtype: str,
    shape: tuple[int, ...],
    data_bytes: int,
    sample: NDArray[np.uint8],
    level: str,
    block_elements: int,
    spatial: SpatialOptions,
) -> tuple[Plan, list[batch.Blocks]]:
    """Plan a layer from its first bytes (all of them, or SAMPLE_BYTES at least). If a trial has
    encoded all of it as planned, and without row groups, its blocks are returned, too, not
    verified.
    """
    w = unit_bytes(dtype)
    if data_bytes == 0:
        return Plan(batch.RAW, 0, Grid(0, 0, w, 0, 0, 0, False)), []
    thorough = level == "max"
    layer = _Layer(dtype, shape, data_bytes, sample, thorough, block_elements, spatial)
    candidates = list(layer.candidates())
    if len(candidates) == 1:
        return candidates[0], []
    best = Plan(batch.RAW, 0, choose_grid(1, data_bytes // w, w, block_elements))
    made = Trial([], TRIAL_SHARE_UNIT)
    sample = layer.trial()
    for plan in candidates:
        trial = try_plan(plan, sample)
        # What comes later decodes slower than what came before.
        if trial.share + (0 if thorough else _least_gain(best, made.share)) < made.share:
            best, made = plan, trial
    if thorough and best.family == batch.LZ:
        return best._replace(zstd_level=MAX_ZSTD_LEVEL), []
    whole = len(sample) == data_bytes and not best.grid.row_groups
    return best, made.parts if whole else []


def _least_gain(plan: Plan, share: int) -> int:
    """What a coding that decodes slower than this plan must save more than, both as Trial has
    them.
    """
    if plan.family != batch.RANS16:
        return share // MIN_GAIN_SHARE
    if plan.grid.unit_bytes == 1:
        return share // MIN_RANS16_BYTES_GAIN_SHARE[plan.n_streams - 1]
    # Not where next to nothing is left: of constant rows, which may not go on.
    least = share // MIN_RANS16_FLOATS_GAIN_SHARE[plan.n_streams - 1]
    return max(least, TRIAL_SHARE_UNIT // MIN_GAIN_SHARE)


def _picked(words: NDArray[Any]) -> NDArray[Any]:
    """PICKED of them, or some more, from all places; all where they are fewer."""
    return words[:: max(1, len(words) // PICKED)]


def has_no_signs(sample: NDArray[np.uint8], w: int) -> bool:
    """Whether floats of w bytes picked of these all lack a sign."""
    return bool(_picked(sample[w - 1 :: w]).max() < 0x80)


def has_repeats(sample: NDArray[np.uint8], w: int) -> bool:
    """Whether floats picked of these are often equal; of those of 2 bytes, four in a row, as single
    ones always are.
    """
    words = _picked(sample[: len(sample) // 8 * 8].view("<u8" if w == 2 else "<u4"))
    few = words[:: max(1, len(words) // FEW)]
    if _n_distinct(few) == len(few):  # as of nearly all layers
        return False
    return _n_distinct(words) < len(words) - len(words) // MIN_EQUAL_SHARE


def _n_distinct(words: NDArray[Any]) -> int:
    ordered = np.sort(words)
    return 1 + int((ordered[1:] != ordered[:-1]).sum())


def has_uneven_lines(sample: NDArray[np.uint8], dtype: str, cols: int) -> bool:
    """Whether rows or columns of floats differ in scale: whether the means of the exponents of
    rows and of columns explain more than 1 / MIN_UNEVEN_SHARE of their variance, in a corner.
    """
    w = unit_bytes(dtype)
    rows = len(sample) // (cols * w)
    if min(rows, cols) < PICKED_LINES:
        return False
    matrix = sample[: rows * cols * w].view(f"<u{w}").reshape(rows, cols)
    # Neighbouring columns, as those of a convolution have a period.
    picked = matrix[:: rows // PICKED_LINES, :PICKED_LINES]
    n_bits = rans32.exponent_bits(dtype)
    exponents = (picked >> 8 * w - 1 - n_bits & (1 << n_bits) - 1).astype(np.int64)
    of_rows, of_columns = exponents.sum(axis=1), exponents.sum(axis=0)
    square = int(of_rows.sum()) ** 2
    explained = len(of_rows) * int((of_rows * of_rows).sum()) - square
    explained += len(of_columns) * int((of_columns * of_columns).sum()) - square
    variance = exponents.size * int((exponents * exponents).sum()) - square
    return MIN_UNEVEN_SHARE * explained > variance


def estimate_codings(
    dtype: str,
    shape: tuple[int, ...],
    data_bytes: int,
    sample: NDArray[np.uint8],
    level: str,
    block_elements: int,
    spatial: SpatialOptions,
) -> dict[int, int]:
    """Bytes of the payloads of a layer that has data, by coding, raw among them: by a trial on
    TRIAL_BYTES of the sample. Takes what plan_layer() does, and tries codings that the level leaves
    out, too.
    """
    thorough = level == "max"
    layer = _Layer(dtype, shape, data_bytes, sample, thorough, block_elements, spatial)
    trial = layer.trial()
    found = {batch.RAW: data_bytes}
    for plan in layer.candidates(every=True):
        size = try_plan(plan, trial).share * data_bytes // TRIAL_SHARE_UNIT
        found[plan.family] = min(size, found.get(plan.family, size))
    return found


class _Layer(NamedTuple):
    """A layer that has data, as plan_layer() is given it, and the plans that may suit it."""

    dtype: str
    shape: tuple[int, ...]
    data_bytes: int
    sample: NDArray[np.uint8]
    thorough: bool
    block_elements: int
    spatial: SpatialOptions

    def candidates(self, every: bool = False) -> Iterator[Plan]:
        """The plans to try, those that decode faster first; a single one needs no trial. `every`:
        those of other levels too.
        """
        fast = every or not self.thorough
        w = unit_bytes(self.dtype)
        is_float = self.dtype in FORM_SETS
        no_signs = is_float and has_no_signs(self.sample, w)
        usual = is_float and not (every or no_signs or has_repeats(self.sample, w))
        thorough = self.thorough or no_signs
        classes = thorough or (is_float and self._classes_may_pay())
        views = [self.dtype] if self.dtype != "C64" else []
        views += [PARTS[self.dtype]] if self.dtype in PARTS else []
        if fast and views[-1] in FORM_SETS:
            yield self._rans16(views[-1], FORM_SETS[views[-1]])
            if usual and not classes:
                return
        elif fast and unit_bytes(views[-1]) == 1:
            is_fp8 = views[-1] in FP8_DTYPES
            yield self._rans16(views[-1], batch.FP8_FORMS if is_fp8 else batch.INT8_FORMS)
        for dtype in views:
            splits = rans32.splits(dtype, thorough)
            if splits:
                options = (rans32.exponent_bits(dtype), classes)
                row_axes, grid = self._grid(dtype)
                yield Plan(batch.RANS32, row_axes, grid, form_set=splits, rans32=options)
        if not usual or self._is_tiny():
            yield from self._lz(w)
        yield from self._spatial(views[0])

    def _is_tiny(self) -> bool:
        """Whether states and tables weigh more than what most codings gain."""
        return self.data_bytes < MIN_TRIED_UNITS * unit_bytes(self.dtype)

    def _classes_may_pay(self) -> bool:
        """Whether rans32, with classes, is worth a trial on floats that are usual otherwise."""
        w = unit_bytes(self.dtype)
        if self.data_bytes < SINGLE_STREAM_UNITS * w:
            return not self._is_tiny()
        _, cols = matrix_shape(self.shape, self.data_bytes, w, self._row_axes())
        return has_uneven_lines(self.sample, self.dtype, cols)

    def trial(self) -> NDArray[np.uint8]:
        """What the plans are tried on: some rows from the middle of the sample, which are more like
        the others than the first ones are.
        """
        start = max(0, len(self.sample) - TRIAL_BYTES) // 2
        row_bytes = self.data_bytes // prod(self.shape[: self._row_axes()])
        start -= start % (row_bytes if row_bytes <= start else 8)
        return self.sample[start : start + TRIAL_BYTES]

    def _row_axes(self) -> int:
        return choose_row_axes(self.shape) if (bits(self.dtype) or 1) % 8 == 0 else 0

    def _grid(self, dtype: str) -> tuple[int, Grid]:
        """Row axes and grid for this view, with rows sorted by structure where that pays."""
        w = unit_bytes(dtype)
        row_axes = self._row_axes()
        rows, cols = matrix_shape(self.shape, self.data_bytes, w, row_axes)
        n_parts = unit_bytes(self.dtype) // w
        grid = choose_grid(rows, cols, w, self.block_elements * n_parts)
        if dtype == "F32" and row_groups_pay(self.sample, grid.cols):
            panel_rows = min(grid.rows, max(1, WINDOW_BYTES // grid.row_bytes))
            grid = grid._replace(panel_rows=panel_rows, row_groups=True)
        return row_axes, grid

    def _rans16(self, dtype: str, form_set: int) -> Plan:
        row_axes, grid = self._grid(dtype)
        least = SINGLE_STREAM_BYTES if grid.unit_bytes == 1 else SINGLE_STREAM_UNITS
        n_streams = 1 if grid.rows * grid.cols < least else 2
        return Plan(batch.RANS16, row_axes, grid, form_set=form_set, n_streams=n_streams)

    def _lz(self, w: int) -> Iterator[Plan]:
        grid = choose_grid(1, self.data_bytes // w, w, LZ_BLOCK_BYTES // w)
        plan = Plan(batch.LZ, 0, grid)
        yield plan
        if w > 1:
            yield plan._replace(shuffle=True)

    def _spatial(self, dtype: str) -> Iterator[Plan]:
        form = (FORMS | FLOAT_FORMS if self.thorough else FORMS).get(dtype)
        if form is None:
            return
        row_axes, grid = self._grid(dtype)
        if spatial_pays(self.sample, form, grid.cols, grid.unit_bytes, self.spatial):
            options = self.spatial
            sets = (form, options.tile_log2, options.predictor_set, options.transform_set)
            yield Plan(batch.SPATIAL, row_axes, grid, spatial=sets)


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
    col_bands = _column_bands(cols, -(-block_units // rows))
    block_rows = max(1, min(rows, block_units * col_bands // cols))
    # A row band must fit a window; long rows make flat blocks.
    if block_rows > 1 and block_rows * cols * w > WINDOW_BYTES:
        block_rows = max(1, WINDOW_BYTES // (cols * w))
        col_bands = _column_bands(cols, block_units // block_rows)
    return Grid(rows, cols, w, block_rows, col_bands, rows, False)


def _column_bands(cols: int, width: int) -> int:
    """How many column bands of at most `width`, or WIDE_BLOCK_COLUMNS where that is more."""
    width = max(WIDE_BLOCK_COLUMNS, -(-width // COLUMN_STEP) * COLUMN_STEP)
    return min(-(-cols // width), max(1, cols // COLUMN_STEP))
