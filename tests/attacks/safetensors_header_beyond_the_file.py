# SPDX-License-Identifier: Apache-2.0
"""A safetensors header that claims more bytes than the file has, below every limit."""

from support.hostile_safetensors import write_file

ERROR = "FormatError"
MESSAGE = r"the file has 10 in all"


def write(directory):
    return write_file(directory, b"{}", size=50_000_000)
