# SPDX-License-Identifier: Apache-2.0
"""What is to be done with a layer, and doing it: a plan and the bytes of a window -> its blocks."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wcodec import zstd_frame
from wcodec.codec import batch
from wcodec.codec.layout import Grid, Window
from wcodec.codec.structure import group_rows
from wcodec.errors import WcodecError
from wcodec.overlap import Buffers

TRIAL_SHARE_UNIT = 1 << 20


class Plan(NamedTuple):
    family: int
    row_axes: int
    grid: Grid
    form_set: int = 0  # of rans16, or the splits of rans32
    n_streams: int = 1  # of rans16
    shuffle: bool = False  # of lz
    zstd_level: int = zstd_frame.LEVEL
    spatial: tuple[int, int, int, int] = (0, 0, 0, 0)  # form, tile_log2 and sets for the core
    rans32: tuple[int, bool] = (0, False)  # bits of an exponent, and whether to try classes


def encode_window(
    plan: Plan,
    window: Window,
    data: NDArray[np.uint8],
    *,
    verify: bool,
    threads: int,
    outputs: Buffers | None = None,
) -> list[batch.Blocks]:
    """Encode one window, in parts; the last is put into memory of `outputs`, but for lz."""
    w = plan.grid.unit_bytes
    if plan.family == batch.LZ:
        assert window.descriptors is not None
        return batch.encode_lz(
            data,
            w,
            window.descriptors,
            shuffle=plan.shuffle,
            zstd_level=plan.zstd_level,
            verify=verify,
        )
    parts = []
    if window.descriptors is None:
        groups = group_rows(data.view(np.uint32).reshape(window.rows, -1))
        parts.append(batch.encode_row_groups(groups, plan.zstd_level))
        descriptors, row_index = plan.grid.group_descriptors(groups)
    else:
        descriptors, row_index = window.descriptors, batch.NO_ROWS
    parts.append(
        batch.encode_blocks(
            data,
            w,
            descriptors,
            row_index,
            family=plan.family,
            form_set=plan.form_set,
            n_streams=plan.n_streams,
            spatial=plan.spatial,
            rans32=plan.rans32,
            verify=verify,
            threads=threads,
            outputs=outputs,
        )
    )
    return parts


def verify_window(
    plan: Plan, window: Window, data: NDArray[np.uint8], parts: list[batch.Blocks]
) -> None:
    """Decode what encode_window() has made of a window without row groups, and compare.

    Raises WcodecError.
    """
    assert window.descriptors is not None
    headers = np.concatenate([part.headers for part in parts])
    slack = np.zeros(batch.READ_SLACK_BYTES, np.uint8)
    blocks = batch.Blocks(headers, np.concatenate([*(part.data for part in parts), slack]))
    decoded = np.empty(window.size, np.uint8)
    batch.decode_blocks(
        blocks,
        plan.family,
        window.descriptors,
        batch.NO_ROWS,
        decoded,
        plan.grid.unit_bytes,
        threads=1,
        layer="what was encoded",
    )
    if not np.array_equal(decoded, data):
        raise WcodecError("encoding failed: decoding it again gave other data")


class Trial(NamedTuple):
    """What a plan makes of the first bytes of a layer: their blocks, in parts, not verified, and
    the size in 1 / TRIAL_SHARE_UNIT of theirs; the headers of blocks count as nothing, as they do
    beside a layer of raw blocks.
    """

    parts: list[batch.Blocks]
    share: int


def try_plan(plan: Plan, sample: NDArray[np.uint8]) -> Trial:
    grid = plan.grid.first_rows(len(sample))
    parts: list[batch.Blocks] = []
    for window in grid.windows(grid.data_bytes):
        data = sample[window.start : window.start + window.size]
        parts += encode_window(plan, window, data, verify=False, threads=1)
    size = sum(int(part.headers["payload_bytes"].sum()) for part in parts)
    return Trial(parts, size * TRIAL_SHARE_UNIT // grid.data_bytes)
