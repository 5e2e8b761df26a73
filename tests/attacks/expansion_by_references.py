# SPDX-License-Identifier: Apache-2.0
"""A layer that is referred to 3000 times is decoded 3000 times: references count as what they
decode to.
"""

from support.container_builder import Block, LayerSpec, build

REFERENCES = [LayerSpec(str(i), shape=(1 << 30,), kind=1, target="a") for i in range(3000)]

ERROR = "LimitError"
MESSAGE = r"expansion|total"


LAYER = LayerSpec("a", [Block(b"\0", coding=1)] * 64, shape=(1 << 30,), block_rows=1)


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build([LAYER, *REFERENCES]).data)
    return path
