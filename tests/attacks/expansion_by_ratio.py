# SPDX-License-Identifier: Apache-2.0
"""A terabyte in 1 MB: 32768 constant blocks of the largest legal size. Each is legal, the sum is
not.
"""

from support.container_builder import Block, LayerSpec, build

BLOCKS = [Block(b"\0", coding=1)] * (1 << 15)

ERROR = "LimitError"
MESSAGE = r"expansion"


LAYER = LayerSpec(
    "a", BLOCKS, shape=(1 << 39, 2), block_rows=1 << 24, row_axes=1, panel_rows=1 << 39
)


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build([LAYER]).data)
    return path
