# SPDX-License-Identifier: Apache-2.0
"""A safetensors file that is a zip file as well: bytes follow the last tensor."""

from support.hostile_safetensors import write_file

ERROR = "FormatError"
MESSAGE = r"the file has 4 for them"


def write(directory):
    return write_file(directory, {"a": ("U8", [2], 0, 2)}, b"abPK")
