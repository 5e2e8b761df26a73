# SPDX-License-Identifier: Apache-2.0
"""A tensor of negative size."""

from support.hostile_safetensors import write_file

ERROR = "FormatError"
MESSAGE = r"ends before it begins"


def write(directory):
    return write_file(directory, {"a": ("U8", [0], 4, 0)}, b"abcd")
