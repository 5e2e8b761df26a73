# SPDX-License-Identifier: Apache-2.0
"""A file cut off behind a layer that holds a whole wcodec file: its last bytes are a sound
footer.
"""

from support.container_builder import Block, LayerSpec, build

ERROR = "TruncatedError"
MESSAGE = "ends at \\d+ bytes, in the middle of a record"


def write(directory):
    inner = build().data
    outer = build([LayerSpec("a", [Block(inner)], shape=(len(inner),))]).data
    path = directory / "model.wcodec"
    path.write_bytes(outer[: outer.index(inner) + len(inner)])
    return path
