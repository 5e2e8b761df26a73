# SPDX-License-Identifier: Apache-2.0
"""An index that says it has 2^60 layers."""

from support.container_builder import build, sound_layers

ERROR = "CorruptError"
MESSAGE = r"cannot hold 1152921504606846976 layers"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build(sound_layers()).with_fields({"index.n_layers": 1 << 60}))
    return path
