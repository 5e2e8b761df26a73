# SPDX-License-Identifier: Apache-2.0
"""A layer that says it has 2^32 - 1 blocks, whose directory would be 64 GiB."""

from support.container_builder import build, sound_layers

ERROR = "LimitError"
MESSAGE = r"number of blocks is 4294967295"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build(sound_layers()).with_fields({"index/raw.n_blocks": (1 << 32) - 1}))
    return path
