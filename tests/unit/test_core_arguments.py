# SPDX-License-Identifier: Apache-2.0
"""What the bindings of the core refuse before a kernel sees it: each rule once, in calls that are
right but for one argument.
"""

import numpy as np
import pytest

from wcodec import _core
from wcodec.block_header import BLOCK_HEADER
from wcodec.codec import batch

ROWS, COLS = 4, 128
RAW = batch.frame_block(batch.RAW, 0, bytes(ROWS * COLS))
TILES = {"unit_bytes": 1, "form": 0, "tile_log2": 3, "predictor_set": 1, "transform_set": 1}


def descriptors(**changes: int) -> np.ndarray:
    blocks = np.zeros(1, batch.DESCRIPTOR)
    blocks["rows"], blocks["cols"], blocks["row_stride"] = ROWS, COLS, COLS
    blocks["row_index_first"] = batch.NO_ROW_INDEX
    for name, value in changes.items():
        blocks[name] = value
    return blocks


def headers(**changes: int) -> np.ndarray:
    changed = RAW.headers.copy()
    for name, value in changes.items():
        changed[name] = value
    return changed


def encode(**changes):
    arguments = {
        "matrix": np.zeros(ROWS * COLS, np.uint8),
        "unit_bytes": 1,
        "descriptors": descriptors(),
        "row_index": batch.NO_ROWS,
        "data": np.empty(ROWS * COLS + 16, np.uint8),
        "headers": np.empty(1, BLOCK_HEADER),
        "family": batch.RAW,
        "form_set": 0,
        "n_streams": 1,
        "spatial": (0, 0, 0, 0),
        "rans32": (0, False),
        "verify": True,
        "threads": 1,
    }
    return _core.encode_blocks(*(arguments | changes).values())


def decode(**changes):
    arguments = {
        "data": np.concatenate([RAW.data, np.zeros(batch.READ_SLACK_BYTES, np.uint8)]),
        "headers": RAW.headers,
        "family": batch.RAW,
        "descriptors": descriptors(),
        "row_index": batch.NO_ROWS,
        "matrix": np.empty(ROWS * COLS, np.uint8),
        "unit_bytes": 1,
        "threads": 1,
    }
    return _core.decode_blocks(*(arguments | changes).values())


def describe(**changes):
    arguments = {
        "data": np.concatenate([RAW.data, np.zeros(batch.READ_SLACK_BYTES, np.uint8)]),
        "headers": RAW.headers,
        "family": batch.RAW,
        "descriptors": descriptors(),
        "matrix_bytes": ROWS * COLS,
        "unit_bytes": 1,
        "data_address": 1 << 20,
        "matrix_address": 0,
        "streams": np.empty(0, batch.STREAM_DESCRIPTOR),
        "rans32": np.empty(0, batch.RANS32_DESCRIPTOR),
        "spatial": np.empty(0, batch.SPATIAL_DESCRIPTOR),
        "copies": np.empty(1, batch.COPY_DESCRIPTOR),
        "parameters": np.empty(0, np.uint8),
    }
    return _core.describe_blocks(*(arguments | changes).values())


def sample(**changes):
    arguments = {"matrix": np.zeros(ROWS * COLS, np.uint8), "cols": COLS, **TILES, "n_tiles": 1}
    return _core.sample_spatial(*(arguments | changes).values())


def transform(**changes):
    arguments = {"squares": np.zeros(64, np.int32), "transform": 0, "inverse": False}
    return _core.spatial_transform(*(arguments | changes).values())


def spatial(form: int, tile_log2: int, predictor_set: int, transform_set: int) -> dict:
    return {
        "family": batch.SPATIAL,
        "spatial": (form, tile_log2, predictor_set, transform_set),
    }


def forms(family: int, form_set: int, exponent_bits: int = 0) -> dict:
    return {"family": family, "form_set": form_set, "rans32": (exponent_bits, False)}


def indexed(*rows: int, first: int = 0) -> dict:
    """A block of the rows of an index."""
    return {
        "row_index": np.array(rows, np.uint32),
        "descriptors": descriptors(row_index_first=first),
    }


def test_the_calls_are_right_but_for_the_changes():
    assert encode()[1] == decode() == describe()[1] == []
    assert encode(**spatial(0, 3, 1, 1))[1] == []
    assert encode(**forms(batch.RANS32, 1))[1] == []
    assert decode(**indexed(3, 2, 1, 0)) == []
    sample()
    transform()


REFUSED = [
    (encode, {"unit_bytes": 3}, "unit_bytes"),
    (encode, {"threads": 0}, "threads"),
    (encode, {"threads": 257}, "threads"),
    (encode, {"n_streams": 3}, "n_streams"),
    (encode, {"headers": np.empty(2, BLOCK_HEADER)}, "headers"),
    (encode, {"family": batch.LZ}, "family"),
    (encode, {"data": np.empty(ROWS * COLS + 15, np.uint8)}, "too small"),
    (encode, forms(batch.RAW, 2), "have forms"),
    (encode, forms(batch.RANS32, 0), "needs a form"),
    (encode, forms(batch.RANS16, 1 << 0), "unit size"),
    (encode, forms(batch.RANS16, 1 << 31), "unit size"),
    (encode, forms(batch.RANS16, 1 << 1), "unit size"),
    (encode, forms(batch.RANS32, 1 << 15), "split"),
    (encode, forms(batch.RANS32, 1 << 4, exponent_bits=4), "split"),
    (encode, spatial(255, 3, 1, 1), "form"),
    (encode, spatial(0, 1, 1, 1), "tile_log2"),
    (encode, spatial(0, 7, 1, 1), "tile_log2"),
    (encode, spatial(0, 3, 0, 1), "predictors"),
    (encode, spatial(0, 3, 1 << 16, 1), "predictors"),
    (encode, spatial(0, 3, 1, 0), "transforms"),
    (encode, spatial(0, 3, 1, 1 << 16), "transforms"),
    (encode, {"unit_bytes": 8, **spatial(0, 3, 1, 1)}, "not 1, 2 or 4"),
    (decode, {"headers": np.empty(0, BLOCK_HEADER)}, "headers"),
    (decode, {"descriptors": descriptors(rows=0)}, "empty"),
    (decode, {"descriptors": descriptors(cols=0)}, "empty"),
    (decode, {"descriptors": descriptors(rows=1 << 13, cols=1 << 12)}, "a block is too large"),
    (
        decode,
        {"descriptors": descriptors(rows=1 << 11, cols=(1 << 11) + 1), "unit_bytes": 8},
        "a block is too large",
    ),
    (decode, indexed(0, 1, 2), "row index"),
    (decode, indexed(0, 1, 2, 3, first=5), "row index"),
    (decode, indexed(0, 1, 2, 4), "outside the matrix"),
    (decode, {"descriptors": descriptors(matrix_offset=ROWS * COLS + 1)}, "outside the matrix"),
    (decode, {"descriptors": descriptors(rows=1, matrix_offset=385)}, "outside the matrix"),
    (decode, {"descriptors": descriptors(row_stride=COLS + 1)}, "outside the matrix"),
    (decode, {"headers": headers(payload_bytes=(1 << 25) + 1)}, "payload is too large"),
    (decode, {"data": np.zeros(592 - 1, np.uint8)}, "outside the data"),
    (decode, {"descriptors": descriptors(data_offset=1 << 40)}, "outside the data"),
    (describe, {"headers": np.empty(2, BLOCK_HEADER)}, "headers"),
    (describe, {"data_address": 8}, "data_address"),
    (describe, {"descriptors": descriptors(row_index_first=0, rows=1)}, "row index"),
    (describe, {"streams": np.empty(1, batch.STREAM_DESCRIPTOR)}, "room"),
    (describe, {"rans32": np.empty(1, batch.RANS32_DESCRIPTOR)}, "room"),
    (describe, {"spatial": np.empty(1, batch.SPATIAL_DESCRIPTOR)}, "room"),
    (describe, {"copies": np.empty(2, batch.COPY_DESCRIPTOR)}, "room"),
    (
        describe,
        {
            "headers": headers(coding=batch.RANS32),
            "rans32": np.empty(1, batch.RANS32_DESCRIPTOR),
            "copies": np.empty(0, batch.COPY_DESCRIPTOR),
        },
        "room for the parameters",
    ),
    (
        describe,
        {
            "headers": headers(coding=batch.SPATIAL),
            "spatial": np.empty(1, batch.SPATIAL_DESCRIPTOR),
            "copies": np.empty(0, batch.COPY_DESCRIPTOR),
        },
        "room for the parameters",
    ),
    (sample, {"unit_bytes": 8}, "unit_bytes"),
    (sample, {"cols": 0}, "empty"),
    (sample, {"n_tiles": 0}, "empty"),
    (sample, {"cols": ROWS * COLS + 1}, "no rows"),
    (sample, {"cols": 100}, "no rows"),
    (transform, {"squares": np.zeros(65, np.int32)}, "8 x 8"),
    (transform, {"transform": 255}, "transform"),
]


@pytest.mark.parametrize(("call", "change", "message"), REFUSED)
def test_one_wrong_argument(call, change, message):
    with pytest.raises(ValueError, match=message):
        call(**change)


def test_a_block_of_a_device_begins_at_a_multiple_of_16():
    data = np.zeros(len(RAW.data) + 8 + batch.READ_SLACK_BYTES, np.uint8)
    data[8 : 8 + len(RAW.data)] = RAW.data
    with pytest.raises(ValueError, match="multiple of 16"):
        describe(data=data, descriptors=descriptors(data_offset=8))


def test_a_sample_that_is_too_large():
    with pytest.raises(ValueError, match="too large"):
        sample(matrix=np.zeros((1 << 24) + COLS, np.uint8))


def test_statuses_that_there_are_not():
    with pytest.raises(ValueError, match="no such status"):
        _core.status_text(1000)


def test_another_header_than_that_of_the_directory():
    ((block, status),) = decode(headers=headers(form=1))
    assert block == 0
    assert _core.status_text(status) == "its header is not the one in the directory"
