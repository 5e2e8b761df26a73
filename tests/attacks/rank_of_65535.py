# SPDX-License-Identifier: Apache-2.0
"""A shape of 65535 axes in a head that has room for one."""

from support.container_builder import build, sound_layers

ERROR = "CorruptError"
MESSAGE = r"head_bytes"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build(sound_layers()).with_fields({"raw/head.rank": 65535}))
    return path
