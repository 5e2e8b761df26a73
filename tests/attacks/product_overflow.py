# SPDX-License-Identifier: Apache-2.0
"""A shape whose product wraps round to a small number in 64 bits."""

from support.container_builder import LayerSpec, build

ERROR = "CorruptError"
MESSAGE = r"overflows 64 bits"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build([LayerSpec("a", shape=(1 << 32, 1 << 32), data_bytes=0)]).data)
    return path
