# SPDX-License-Identifier: Apache-2.0
"""A stream that claims 4 GiB of bytes."""

from support.rans16_blocks import bf16_block, write_block

ERROR = "CorruptError"
MESSAGE = r"block 0 of 'a': .*claims more bytes or escapes"


def write(directory):
    payload, form, at = bf16_block()
    payload[at.stream_bytes : at.stream_bytes + 4] = b"\xff" * 4
    return write_block(directory / "model.wcodec", payload, form)
