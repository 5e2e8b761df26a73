# SPDX-License-Identifier: Apache-2.0
"""Encoding with verify=True compares what its blocks decode to with the tensor."""

import io
import threading

import numpy as np
import pytest
from support.arrays import gaussian

import wcodec
from wcodec import zstd_frame
from wcodec.codec import batch, plan


@pytest.mark.parametrize("row_stride", [1 << 12, (1 << 12) + 8])
def test_a_tensor_that_changes_while_it_is_encoded(row_stride):
    """Its last bytes are counted up all the time, so they differ between copy and comparison."""
    rows, cols = 1 << 10, 1 << 12
    matrix = np.random.default_rng(1).integers(0, 256, rows * row_stride, dtype=np.uint8)
    end = (rows - 1) * row_stride + cols
    counter = matrix[end - 8 : end].view(np.uint64)
    descriptors = np.zeros(1, batch.DESCRIPTOR)
    descriptors["rows"], descriptors["cols"] = rows, cols
    descriptors["row_stride"] = row_stride
    descriptors["row_index_first"] = batch.NO_ROW_INDEX
    ended = threading.Event()

    def count():
        while not ended.is_set():
            counter[0] += 1

    def encode(verify):
        batch.encode_blocks(
            matrix, 1, descriptors, batch.NO_ROWS, family=batch.RAW, verify=verify, threads=1
        )

    def encode_often():
        for _ in range(100):  # the other thread may not get its turn
            encode(True)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        encode(False)
        with pytest.raises(wcodec.WcodecError, match="decoding it again gave other data"):
            encode_often()
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("family", [batch.RANS16, batch.RANS32])
def test_a_tensor_that_changes_makes_blocks_all_the_same(family):
    """Without verify: of each block one state of it is coded, which decodes without an error."""
    random = np.random.default_rng(2)
    states = random.integers(0, 32, (2, 1 << 20), dtype=np.uint8)
    states[1] += 200
    matrix = states[0].copy()
    descriptors = np.zeros(1, batch.DESCRIPTOR)
    descriptors["rows"], descriptors["cols"] = 1024, len(matrix) // 1024
    descriptors["row_stride"] = descriptors["cols"]
    descriptors["row_index_first"] = batch.NO_ROW_INDEX
    ended = threading.Event()

    def change():
        while not ended.is_set():
            for state in states:
                np.copyto(matrix, state)
                ended.wait(0.001)  # some blocks see but one state at first, and then the other

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(50):
            blocks = batch.encode_blocks(
                matrix,
                1,
                descriptors,
                batch.NO_ROWS,
                family=family,
                form_set=batch.INT8_FORMS if family == batch.RANS16 else family == batch.RANS32,
                verify=False,
                threads=1,
            )
            data = np.concatenate([blocks.data, np.zeros(batch.READ_SLACK_BYTES, np.uint8)])
            decoded = np.empty_like(matrix)
            batch.decode_blocks(
                blocks._replace(data=data),
                family,
                descriptors,
                batch.NO_ROWS,
                decoded,
                1,
                threads=1,
                layer="changing",
            )
            assert ((decoded == states[0]) | (decoded == states[1])).all()
    finally:
        ended.set()
        thread.join()


def test_a_zstd_frame_that_holds_other_data(monkeypatch):
    data = np.zeros(4096, np.uint8)
    data[::7] = 1

    def encode(verify):
        descriptors = np.zeros(1, batch.DESCRIPTOR)
        descriptors["rows"], descriptors["cols"] = 1, len(data)
        return batch.encode_lz(data, 1, descriptors, shuffle=False, zstd_level=3, verify=verify)

    other = zstd_frame.compress(bytes(4096))
    monkeypatch.setattr(zstd_frame, "compress", lambda content, level: other)
    assert encode(False)
    with pytest.raises(wcodec.WcodecError, match="decoding it again gave other data"):
        encode(True)


@pytest.mark.parametrize("verify", [True, False])
def test_a_trial_that_encoded_other_data(monkeypatch, verify):
    array = gaussian("BF16", 100_000).reshape(400, 250)
    try_plan = plan.try_plan

    def try_other(tried, sample):
        other = sample.copy()
        other[777] ^= 1
        return try_plan(tried, other)

    monkeypatch.setattr(plan, "try_plan", try_other)

    def encode():
        return wcodec.encode_checkpoint({"a": array}, io.BytesIO(), threads=1, verify=verify)

    if not verify:
        assert encode()["layers"][0]["coding"] == "rans32"
        return
    with pytest.raises(wcodec.WcodecError, match="decoding it again gave other data"):
        encode()
