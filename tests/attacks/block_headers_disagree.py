# SPDX-License-Identifier: Apache-2.0
"""A block whose own header says another coding than the directory."""

from support.container_builder import build, sound_layers

ERROR = "CorruptError"
MESSAGE = r"block 0 of 'raw'"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build(sound_layers()).with_fields({"raw/copy0.coding": 1}))
    return path
