# SPDX-License-Identifier: Apache-2.0
"""Large blocks are surveyed by a sample of their units; what it has not seen must be coded, too."""

import numpy as np
import pytest

from wcodec.codec import batch

N = 1 << 15  # the least that is sampled
GROUP = 64

# Two units whose codes take turns, one of another code, and one with another lowest bit.
UNITS = {
    "BF16": (np.uint16, batch.BF16_FORMS, (0x3F80, 0x3F00), (0x4780, 0x3F81)),
    "F16": (np.uint16, batch.FP16_FORMS, (0x3C00, 0x3800), (0x7800, 0x3C01)),
    "F32": (np.uint32, batch.FP32_FORMS, (0x3F800000, 0x3F000000), (0x47800000, 0x3F800001)),
    "I8": (np.uint8, batch.INT8_FORMS, (0x10, 0x20), (0x70, 0x11)),
    "F8": (np.uint8, batch.FP8_FORMS, (0x38, 0x40), (0x78, 0x39)),
}


def encode_and_decode(units, form_set):
    place = np.zeros(1, batch.DESCRIPTOR)
    place["rows"], place["cols"] = 1, len(units)
    place["row_stride"] = units.nbytes
    place["row_index_first"] = batch.NO_ROW_INDEX
    w = units.itemsize
    blocks = batch.encode_blocks(
        units.view(np.uint8),
        w,
        place,
        batch.NO_ROWS,
        family=batch.RANS16,
        form_set=form_set,
        verify=False,
        threads=1,
    )
    decoded = np.empty(units.nbytes, np.uint8)
    padded = np.concatenate([blocks.data, np.zeros(batch.READ_SLACK_BYTES, np.uint8)])
    batch.decode_blocks(
        blocks._replace(data=padded),
        batch.RANS16,
        place,
        batch.NO_ROWS,
        decoded,
        w,
        threads=1,
        layer="test",
    )
    return blocks, decoded.view(units.dtype)


@pytest.mark.parametrize("dtype", UNITS)
@pytest.mark.parametrize("which", [0, 1])
def test_one_unit_like_no_other(dtype, which):
    """In each of 24 groups in a row, of which some are in the sample and others are not."""
    word, form_set, pair, others = UNITS[dtype]
    random = np.random.default_rng(1)
    units = np.array(pair, word)[random.integers(0, 2, N + 5)]
    for group in range(24):
        changed = units.copy()
        changed[group * GROUP + 7 * group % GROUP] = others[which]
        blocks, decoded = encode_and_decode(changed, form_set)
        assert blocks.headers["coding"][0] == batch.RANS16
        assert np.array_equal(decoded, changed)


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_a_sample_is_enough_for_a_good_table(dtype):
    """Exponents take 0.05 bits more than their entropy at most, states and table included."""
    word, form_set, _, _ = UNITS[dtype]
    random = np.random.default_rng(2)
    values = random.standard_normal(4 * N).astype(np.float32)
    units = values.view(np.uint32) if dtype == "F32" else (values.view(np.uint32) >> 16)
    units = units.astype(word)
    whole, _ = encode_and_decode(units, form_set)
    counts = np.unique(units >> (8 * units.itemsize - 9) & 0xFF, return_counts=True)[1]
    entropy = -(counts / len(units) * np.log2(counts / len(units))).sum()
    bits = 8 * len(whole.data) / len(units)
    assert bits < entropy + 8 * units.itemsize - 8 + 0.05
