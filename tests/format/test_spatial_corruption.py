# SPDX-License-Identifier: Apache-2.0
"""Hostile spatial payloads behind a right CRC: named errors from both decoders, never a crash."""

import numpy as np
import pytest
from support.spatial_blocks import Payload, decode, decode_by_reference, encode, refused
from support.tools import reference_decoder

import wcodec
from wcodec.codec import batch


def matrix() -> np.ndarray:
    """Tiles of several kinds: smooth, flat and noisy ones."""
    random = np.random.default_rng(5)
    x = np.tile(np.arange(320), (192, 1))
    values = 60 * np.sin(x / 50) + random.normal(0, 1 + (x // 160) * 6, x.shape)
    return values.clip(-128, 127).astype(np.int8)


ARRAY = matrix()
PAYLOAD = Payload.of(encode(ARRAY, tile_log2=3, predictors=0b110, transforms=0b11))
BYTES = Payload.of(encode(ARRAY[:16, :64], tile_log2=4))


def test_the_payloads_are_what_the_tests_need():
    assert PAYLOAD.tiles_coding == 2
    assert PAYLOAD.n_tables > 1
    assert PAYLOAD.raw
    assert BYTES.tiles_coding == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tile_log2": 1}, "tiles"),
        ({"tile_log2": 7}, "tiles"),
        ({"tile_log2": 255}, "tiles"),
        ({"n_tables": 0}, "tiles"),
        ({"n_tables": 9}, "tiles"),
        ({"tiles_coding": 3}, "tiles"),
        ({"reserved": 1}, "reserved"),
        ({"tiles": PAYLOAD.tiles[:-2]}, "left over or too few"),
        ({"tiles": PAYLOAD.tiles + b"\0\0"}, "left over or too few"),
        ({"tiles": PAYLOAD.tiles[:127]}, "size of a stream"),
        ({"stream": PAYLOAD.stream[:-2]}, "left over or too few"),
        ({"stream": PAYLOAD.stream[:-1]}, "size of a stream"),
        ({"stream": PAYLOAD.stream + b"\1\0"}, "left over or too few"),
        ({"stream": b""}, "size of a stream"),
        ({"stream": bytes(4) + PAYLOAD.stream[4:]}, "starting state"),
        ({"raw": PAYLOAD.raw[:-1]}, "raw bits"),
        ({"raw": PAYLOAD.raw + b"\0"}, "raw bits"),
        ({"sizes": (2**32 - 1, 0, 0)}, "payload_bytes"),
        ({"sizes": (0, 2**32 - 1, 2**32 - 1)}, "payload_bytes"),
        ({"tables": b"\xff" + PAYLOAD.tables[1:]}, ""),
        ({"tables": b""}, ""),
    ],
)
def test_parts(change, words):
    assert words in refused(PAYLOAD.with_(**change), ARRAY)


def table(*entries: tuple[int, int]) -> bytes:
    return bytes([len(entries) - 1]) + b"".join(
        bytes([symbol]) + frequency.to_bytes(2, "little") for symbol, frequency in entries
    )


@pytest.mark.parametrize(
    "bad",
    [
        table((0, 4095)),
        table((0, 4000), (1, 97)),
        table((0, 4096), (1, 0)),
        table((1, 2048), (0, 2048)),
        table((1, 2048), (1, 2048)),
        table((0, 2048), (128, 2048)),
        table((0, 65535)),
    ],
)
def test_tables(bad):
    rest = PAYLOAD.tables[1 + 3 * (PAYLOAD.tables[0] + 1) :]
    assert "frequency table" in refused(PAYLOAD.with_(tables=bad + rest), ARRAY)


def test_the_table_of_the_tiles_bytes():
    at = 0
    for _ in range(PAYLOAD.n_tables):
        at += 1 + 3 * (PAYLOAD.tables[at] + 1)
    changed = PAYLOAD.tables[:at] + table((0, 4095))
    assert "frequency table" in refused(PAYLOAD.with_(tables=changed), ARRAY)


@pytest.mark.parametrize(
    "tile",
    [6, 7, BYTES.n_tables << 5, 7 << 5],
)
def test_tile_bytes(tile):
    array = ARRAY[:16, :64]
    changed = bytes([*BYTES.tiles[:-1], tile])
    assert "tiles" in refused(BYTES.with_(tiles=changed), array)
    assert "tiles" in refused(BYTES.with_(tiles_coding=0, tiles=bytes([tile])), array)
    assert "tiles" in refused(BYTES.with_(tiles=changed[1:]), array)
    assert "tiles" in refused(BYTES.with_(tiles_coding=0), array)


def test_a_transform_has_no_room_in_tiles_of_four():
    array = np.random.default_rng(1).integers(0, 4, (48, 80)).astype(np.int8)
    payload = Payload.of(encode(array, tile_log2=2, predictors=1, transforms=1))
    assert payload.tiles_coding == 0
    assert payload.tiles[0] >> 3 & 3 == 0
    tile = bytes([payload.tiles[0] | 1 << 3])
    assert "tiles" in refused(payload.with_(tiles=tile), array)


def test_padding_and_spare_bits():
    packed = bytearray(PAYLOAD.pack())
    at = 16 + len(PAYLOAD.tables)
    assert at % 16
    packed[at] = 1
    assert "padding" in refused(bytes(packed), ARRAY)
    raw = bytearray(PAYLOAD.raw)
    tokens = [n for n in range(1, 9) if raw[-1] >> (8 - n) == 0]
    assert tokens, "the last byte of raw bits has no spare bit: change the matrix"
    raw[-1] |= 128
    assert "padding" in refused(PAYLOAD.with_(raw=bytes(raw)), ARRAY)


@pytest.mark.parametrize("form", [3, 255])
def test_forms(form):
    assert "form" in refused(PAYLOAD.pack(), ARRAY, form)


def test_units_of_eight_bytes_have_no_spatial_blocks():
    array = np.zeros((4, 4), np.int64)
    assert "form" in refused(PAYLOAD.pack(), array)


def test_every_changed_byte_is_refused_or_decodes_alike():
    """Behind a right CRC other data may come out, but the same from both decoders."""
    payload = BYTES.pack()
    array = ARRAY[:16, :64]
    n_accepted = 0
    for at in range(len(payload)):
        changed = bytearray(payload)
        changed[at] ^= 1 << at % 8
        blocks = batch.frame_block(batch.SPATIAL, 0, bytes(changed))
        try:
            expected = decode_by_reference(blocks, array)
        except reference_decoder().BadFile:
            with pytest.raises(wcodec.CorruptError, match="block 0 of 'w'"):
                decode(blocks, array)
        else:
            n_accepted += 1
            assert decode(blocks, array).tobytes() == expected
    assert 0 < n_accepted < len(payload)


def test_every_prefix_is_refused():
    payload = BYTES.pack()
    for n in range(1, len(payload)):
        refused(payload[:n], ARRAY[:16, :64])
