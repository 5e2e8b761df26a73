# SPDX-License-Identifier: Apache-2.0
"""A header that announces 2^60 bytes of metadata."""

from support.container_builder import build, sound_layers

ERROR = "CorruptError"
MESSAGE = r"metadata"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(
        build(sound_layers()).with_fields(
            {"header.metadata_stored_bytes": 1 << 60, "header.metadata_bytes": 1 << 60}
        )
    )
    return path
