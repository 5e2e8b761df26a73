# SPDX-License-Identifier: Apache-2.0
"""A pickle named .safetensors: nothing of it may run."""

from support.hostile_safetensors import write_file

ERROR = "FormatError"
MESSAGE = r"no safetensors file"


def write(directory):
    return write_file(directory, b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.", size=None)
