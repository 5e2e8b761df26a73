# SPDX-License-Identifier: Apache-2.0
"""A layer of 2^60 bytes in a file of 1 KB: nothing of that size may be allocated."""

from support.container_builder import Block, LayerSpec, build

ERROR = "LimitError"
MESSAGE = r"decoded size is 1152921504606846976"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build([LayerSpec("a", [Block(b"\0", coding=1)], shape=(1 << 60,))]).data)
    return path
