# SPDX-License-Identifier: Apache-2.0
"""A tensor named twice: readers differ in which one they keep."""

from support.hostile_safetensors import write_file

ERROR = "FormatError"
MESSAGE = r"occurs twice"


ENTRY = b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'


def write(directory):
    return write_file(directory, b"{" + ENTRY + b"," + ENTRY + b"}", b"x")
