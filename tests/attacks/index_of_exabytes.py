# SPDX-License-Identifier: Apache-2.0
"""A footer whose index has 2^63 bytes, so that offset and size overflow 64 bits."""

from support.container_builder import build, sound_layers

ERROR = "CorruptError"
MESSAGE = r"footer|file"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build(sound_layers()).with_fields({"footer.index_bytes": 1 << 63}))
    return path
