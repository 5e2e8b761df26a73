# SPDX-License-Identifier: Apache-2.0
"""Bytes between two tensors that belong to none."""

from support.hostile_safetensors import write_file

ERROR = "FormatError"
MESSAGE = r"leave a gap"


def write(directory):
    return write_file(directory, {"a": ("U8", [2], 0, 2), "b": ("U8", [2], 4, 6)}, b"abcdef")
