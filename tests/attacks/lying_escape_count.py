# SPDX-License-Identifier: Apache-2.0
"""A stream that claims more escapes than there are bytes."""

from support.rans16_blocks import bf16_block, write_block

ERROR = "CorruptError"
MESSAGE = r"block 0 of 'a': .*claims more bytes or escapes"


def write(directory):
    payload, form, at = bf16_block()
    payload[at.n_escapes : at.n_escapes + 4] = (1 << 31).to_bytes(4, "little")
    return write_block(directory / "model.wcodec", payload, form)
