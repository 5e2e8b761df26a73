# SPDX-License-Identifier: Apache-2.0
"""Bytes between two records that belong to none: a place to hide data."""

from support.container_builder import build, sound_layers

ERROR = "CorruptError"
MESSAGE = r"record"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build(sound_layers()).with_fields({"index/constant.record_offset": 1 << 12}))
    return path
