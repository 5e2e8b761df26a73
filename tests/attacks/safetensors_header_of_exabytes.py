# SPDX-License-Identifier: Apache-2.0
"""A safetensors header of 2^63 bytes in a file of 100 bytes."""

from support.hostile_safetensors import write_file

ERROR = "FormatError"
MESSAGE = r"9223372036854775808"


def write(directory):
    return write_file(directory, b"{}", size=1 << 63)
