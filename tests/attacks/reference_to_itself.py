# SPDX-License-Identifier: Apache-2.0
"""A layer that has the bytes of itself."""

from support.container_builder import LayerSpec, build

ERROR = "CorruptError"
MESSAGE = r"'a'"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build([LayerSpec("a", shape=(3,), kind=1, target="a")]).data)
    return path
