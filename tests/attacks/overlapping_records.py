# SPDX-License-Identifier: Apache-2.0
"""Two layers of which the second lies inside the first one's record."""

from support.container_builder import build, sound_layers

ERROR = "CorruptError"
MESSAGE = r"record"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build(sound_layers()).with_fields({"index/constant.record_offset": 192}))
    return path
