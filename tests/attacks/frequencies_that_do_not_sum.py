# SPDX-License-Identifier: Apache-2.0
"""Frequencies with a sum other than 256: a decoder that trusts them reads beside its table."""

from support.rans16_blocks import bf16_block, write_block

ERROR = "CorruptError"
MESSAGE = r"block 0 of 'a': .*its frequency table is invalid"


def write(directory):
    payload, form, at = bf16_block()
    payload[at.frequencies] ^= 1
    return write_block(directory / "model.wcodec", payload, form)
