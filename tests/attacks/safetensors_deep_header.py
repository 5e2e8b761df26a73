# SPDX-License-Identifier: Apache-2.0
"""A header nested 100,000 deep."""

from support.hostile_safetensors import write_file

ERROR = "FormatError"
MESSAGE = r"nested too deeply"


def write(directory):
    return write_file(directory, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
