# SPDX-License-Identifier: Apache-2.0
"""One constant block of 32 bytes that stands for 16 GiB."""

from support.container_builder import Block, LayerSpec, build

ERROR = "CorruptError"
MESSAGE = r"a block holds up to 17179869184 units"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(
        build(
            [
                LayerSpec("a", [Block(b"\0", coding=1)], shape=(1 << 34,)),
            ]
        ).data
    )
    return path
