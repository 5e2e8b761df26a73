"""Structure that a matrix has before any entropy coding: rows whose values come from a narrower
type.

A float32 row of fp16 values has 13 zero low bits in every word, one of bf16 values 16. Sorted into
groups, such rows make blocks of their own, whose zero bits cost nothing (narrow-in-wide). The group
numbers below are the encoder's; the format gives them no meaning.
"""

import numpy as np
from numpy.typing import NDArray

FULL, FP16_VALUES, BF16_VALUES, ZERO = range(4)
ZERO_BITS = (0, 13, 16, 32)
MIN_GAIN_SHARE = 256  # sort rows only if it saves more than 1 / 256 of the layer
GROUP_COST_BITS = 8 * 512  # a block more, its table and states


def group_rows(words: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Group number of each row of a matrix of float32 bits."""
    any_bit = np.bitwise_or.reduce(words, axis=1)
    groups = np.full(len(words), FULL, dtype=np.uint8)
    groups[any_bit & 0x1FFF == 0] = FP16_VALUES
    groups[any_bit & 0xFFFF == 0] = BF16_VALUES
    groups[any_bit == 0] = ZERO
    return groups


def row_groups_pay(sample: NDArray[np.uint8], cols: int) -> bool:
    """Whether sorting rows saves more than it costs, by the whole rows of a sample of float32
    bytes.
    """
    rows = len(sample) // (4 * cols)
    if rows < 2:
        return False
    words = sample[: rows * cols * 4].view(np.uint32).reshape(rows, cols)
    counts = np.bincount(group_rows(words), minlength=len(ZERO_BITS)).tolist()
    if max(counts) == rows:
        return False  # all rows alike: each block finds its zero bits by itself
    saved = sum(n * cols * bits for n, bits in zip(counts, ZERO_BITS, strict=True))
    cost = sum(n > 0 for n in counts) * GROUP_COST_BITS + 2 * rows
    return bool(saved - cost > rows * cols * 32 // MIN_GAIN_SHARE)
