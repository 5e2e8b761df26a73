# SPDX-License-Identifier: Apache-2.0
"""What a block of rans16 says about itself behind a right CRC."""

import pytest
from support.rans16_blocks import bf16_block, write_block

import wcodec


@pytest.mark.parametrize("form", [0, 15, 255])
def test_forms_that_there_are_not(form, tmp_path):
    payload, _, _ = bf16_block()
    path = write_block(tmp_path / "model.wcodec", payload, form)
    with pytest.raises(wcodec.CorruptError, match="block 0 of 'a': its form does not fit"):
        wcodec.decode_checkpoint(path)


@pytest.mark.parametrize("n_symbols", [0, 1, 65, 255])
def test_sizes_of_a_table(n_symbols, tmp_path):
    payload, form, _ = bf16_block()
    payload[0] = n_symbols
    path = write_block(tmp_path / "model.wcodec", payload, form)
    with pytest.raises(wcodec.CorruptError, match="frequency table is invalid"):
        wcodec.decode_checkpoint(path)
