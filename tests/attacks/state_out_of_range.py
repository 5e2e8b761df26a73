# SPDX-License-Identifier: Apache-2.0
"""A starting state below 256, which no encoder writes."""

from support.rans16_blocks import bf16_block, write_block

ERROR = "CorruptError"
MESSAGE = r"block 0 of 'a': .*starting state is below"


def write(directory):
    payload, form, at = bf16_block()
    payload[at.states + 64] = 0
    return write_block(directory / "model.wcodec", payload, form)
