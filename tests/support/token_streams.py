# SPDX-License-Identifier: Apache-2.0
"""Streams of the coder of rans32 and of the spatial coding, symbol by symbol in Python."""

from __future__ import annotations

import struct

import numpy as np


def encode_stream(symbols: list[int], tables: list[int], frequencies: list[list[int]]) -> bytes:
    """A stream whose symbol i is coded with the table of that number."""
    sums = [np.cumsum([0, *table]).tolist() for table in frequencies]
    states = [1 << 16] * 32
    words = []
    for i in reversed(range(len(symbols))):
        table, symbol = tables[i], symbols[i]
        frequency = frequencies[table][symbol]
        x = states[i % 32]
        if x >= frequency << 20:
            words.append(x & 0xFFFF)
            x >>= 16
        states[i % 32] = (x // frequency << 12) + x % frequency + sums[table][symbol]
    return struct.pack("<32I", *states) + np.array(words[::-1], "<u2").tobytes()
