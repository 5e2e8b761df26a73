# SPDX-License-Identifier: Apache-2.0
"""A name that is half a character and cannot be written as UTF-8."""

from support.hostile_safetensors import write_file

ERROR = "FormatError"
MESSAGE = r"lone surrogate"


HEADER = b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'


def write(directory):
    return write_file(directory, HEADER, b"x")
