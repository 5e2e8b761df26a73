# SPDX-License-Identifier: Apache-2.0
"""Metadata nested 100,000 deep, which would overflow the stack of a recursive parser."""

from support.container_builder import build

ERROR = "CorruptError"
MESSAGE = r"metadata"


def write(directory):
    path = directory / "model.wcodec"
    path.write_bytes(build(metadata=b'{"options":' + b"[" * 100_000 + b"]" * 100_000 + b"}").data)
    return path
