# SPDX-License-Identifier: Apache-2.0
"""A shape whose product wraps round to the size of the data."""

from support.hostile_safetensors import write_file

ERROR = "FormatError"
MESSAGE = r"overflows 64 bits"


def write(directory):
    return write_file(directory, {"a": ("U8", [1 << 63, 2, 1], 0, 0)})
