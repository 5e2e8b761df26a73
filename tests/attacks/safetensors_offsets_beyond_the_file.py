# SPDX-License-Identifier: Apache-2.0
"""A tensor that ends behind the file."""

from support.hostile_safetensors import write_file

ERROR = "FormatError"
MESSAGE = r"the file has 3 for them"


def write(directory):
    return write_file(directory, {"a": ("U8", [1 << 40], 0, 1 << 40)}, b"abc")
