# SPDX-License-Identifier: Apache-2.0
"""Two tied layers that each refer to the other."""

from support.container_builder import LayerSpec, build

ERROR = "CorruptError"
MESSAGE = r"'a'"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(
        build(
            [
                LayerSpec("a", shape=(3,), kind=1, target="b"),
                LayerSpec("b", shape=(3,), kind=1, target="a"),
            ]
        ).data
    )
    return path
