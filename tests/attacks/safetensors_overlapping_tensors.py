# SPDX-License-Identifier: Apache-2.0
"""Two tensors that share bytes."""

from support.hostile_safetensors import write_file

ERROR = "FormatError"
MESSAGE = r"overlap"


def write(directory):
    return write_file(directory, {"a": ("U8", [4], 0, 4), "b": ("U8", [4], 2, 6)}, b"abcdef")
