# SPDX-License-Identifier: Apache-2.0
"""Offsets as fractions, exponents and texts."""

from support.hostile_safetensors import write_file

ERROR = "FormatError"
MESSAGE = r"expected sizes below"


def write(directory):
    return write_file(directory, b'{"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}', b"x")
