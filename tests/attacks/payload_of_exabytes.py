# SPDX-License-Identifier: Apache-2.0
"""A block whose payload has 2^60 bytes, in its header and in the directory."""

from support.container_builder import build, sound_layers

ERROR = "LimitError"
MESSAGE = r"payload_bytes is 1152921504606846976"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(
        build(sound_layers()).with_fields(
            {"raw/block0.payload_bytes": 1 << 60, "raw/copy0.payload_bytes": 1 << 60}
        )
    )
    return path
