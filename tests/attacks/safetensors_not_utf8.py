# SPDX-License-Identifier: Apache-2.0
"""A header that is no UTF-8."""

from support.hostile_safetensors import write_file

ERROR = "FormatError"
MESSAGE = r"not UTF-8 at byte 2"


def write(directory):
    return write_file(directory, b'{"\xff":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x")
