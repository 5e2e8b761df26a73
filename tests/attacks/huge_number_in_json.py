# SPDX-License-Identifier: Apache-2.0
"""A number of a million digits, which takes minutes to convert where nothing limits it."""

from support.container_builder import build

ERROR = "CorruptError"
MESSAGE = r"metadata"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build(metadata=b'{"options":' + b"9" * 1_000_000 + b"}").data)
    return path
