# SPDX-License-Identifier: Apache-2.0
"""An index that describes another layer than the record: whoever trusts one of them is deceived."""

from support.container_builder import build, sound_layers

ERROR = "CorruptError"
MESSAGE = r"raw.*family"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build(sound_layers()).with_fields({"index/raw.family": 2}))
    return path
