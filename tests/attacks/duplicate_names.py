# SPDX-License-Identifier: Apache-2.0
"""Two layers of one name: two readers could each see another one."""

from support.container_builder import LayerSpec, build

ERROR = "CorruptError"
MESSAGE = r"'a'"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build([LayerSpec("a", shape=(0,)), LayerSpec("a", shape=(0,))]).data)
    return path
