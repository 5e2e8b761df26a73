# SPDX-License-Identifier: Apache-2.0
"""A reserved byte that is set: a later version could give it a meaning that this one does not
see.
"""

from support.container_builder import build, sound_layers

ERROR = "CorruptError"
MESSAGE = r"reserved"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build(sound_layers()).with_fields({"raw/head.reserved": b"\0\0\0\0\0\1"}))
    return path
