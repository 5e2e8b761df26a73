# SPDX-License-Identifier: Apache-2.0
"""Hostile rans32 payloads behind a right CRC: named errors from both decoders, never a crash."""

import numpy as np
import pytest
from support.golden_blocks import sealed
from support.rans32_blocks import Payload, decode, decode_by_reference, encode, refused
from support.spatial_blocks import whole
from support.tools import reference_decoder

import wcodec
from wcodec.block_header import BLOCK_HEADER
from wcodec.codec import batch


def matrix() -> np.ndarray:
    """Two scales of rows and of columns, and a few outliers."""
    random = np.random.default_rng(5)
    scale = np.exp2(np.arange(120) % 2)[:, None] * np.exp2(np.arange(160) % 2)
    values = random.normal(0, 30, scale.shape) * scale
    wild = random.random(values.shape) < 0.001
    values[wild] = random.integers(2000, 32768, wild.sum())
    return values.astype(np.int16)


ARRAY = matrix()
PAYLOAD = Payload.of(encode(ARRAY, 2, classes=True), 2)
SMALL = np.random.default_rng(6).normal(0, 2, (8, 90)) * 4.0 ** (np.arange(8) % 2)[:, None]
SMALL = SMALL.clip(-128, 127).astype(np.int8)
BYTES = Payload.of(encode(SMALL, classes=True), 1)


def test_the_payloads_are_what_the_tests_need():
    assert PAYLOAD.n_tables > 1
    assert PAYLOAD.classes == 3
    assert PAYLOAD.escape == 1
    assert PAYLOAD.n_escapes > 1
    assert PAYLOAD.raw
    assert len(PAYLOAD.runs) + len(PAYLOAD.parameters) + 20 & 15
    assert BYTES.zero_bits == 0
    assert BYTES.classes == 1


def run(first: int, length: int) -> bytes:
    return first.to_bytes(2, "little") + bytes([length - 1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low_bits": 16}, "code"),
        ({"low_bits": 255}, "code"),
        ({"zero_bits": 3}, "code"),
        ({"zero_bits": 255}, "code"),
        ({"n_tables": 0}, "classes"),
        ({"n_tables": 17}, "classes"),
        ({"n_tables": 16}, ""),
        ({"classes": 4}, "classes"),
        ({"classes": 0}, ""),
        ({"escape": 2}, "code"),
        ({"escape": 0}, ""),
        ({"reserved": 1}, "reserved"),
        ({"n_runs": 0, "runs": b"", "escape": 0}, "code"),
        ({"n_runs": 2, "runs": run(5, 3) + run(7, 3)}, "code"),
        ({"n_runs": 2, "runs": run(50, 3) + run(7, 3)}, "code"),
        ({"n_runs": 1, "runs": run(0, 256)}, "code"),
        ({"n_runs": 1, "runs": run((1 << 14) - 1, 2)}, "code"),
        ({"n_runs": 255}, ""),
        ({"parameters": PAYLOAD.parameters[:-1]}, ""),
        ({"parameters": PAYLOAD.parameters + b"\0"}, "payload_bytes"),
        ({"parameters": b""}, ""),
        ({"parameters": b"\xff" * 3000}, ""),
        ({"parameters": bytes(len(PAYLOAD.parameters))}, "frequency table"),
        ({"stream": PAYLOAD.stream[:-2]}, "left over or too few"),
        ({"stream": PAYLOAD.stream[:-1]}, "size of a stream"),
        ({"stream": PAYLOAD.stream + b"\1\0"}, "left over or too few"),
        ({"stream": b""}, "size of a stream"),
        ({"stream": bytes(4) + PAYLOAD.stream[4:]}, "starting state"),
        ({"n_escapes": 1, "escapes": PAYLOAD.escapes[:2]}, "left over or too few"),
        ({"n_escapes": 0, "escapes": b""}, "left over or too few"),
        (
            {"n_escapes": PAYLOAD.n_escapes + 1, "escapes": PAYLOAD.escapes + b"\0\0"},
            "left over or too few",
        ),
        ({"escapes": b"\xff\xff" + PAYLOAD.escapes[2:]}, "code"),
        ({"n_escapes": 2**32 - 1}, "payload_bytes"),
        ({"raw": PAYLOAD.raw[:-1]}, "payload_bytes"),
        ({"raw": PAYLOAD.raw + b"\0"}, "payload_bytes"),
        ({"sizes": (2**32 - 1, 0)}, "payload_bytes"),
        ({"sizes": (0, 2**32 - 1)}, "payload_bytes"),
    ],
)
def test_parts(change, words):
    assert words in refused(PAYLOAD.with_(**change), ARRAY)


def test_padding_and_spare_bits():
    packed = bytearray(PAYLOAD.pack())
    packed[20 + len(PAYLOAD.runs) + len(PAYLOAD.parameters)] = 1
    assert "padding" in refused(bytes(packed), ARRAY)
    odd = ARRAY[:5, :5].repeat(5, 0).repeat(5, 1)  # 625 units with 3 raw bits
    payload = Payload.of(encode(odd, 3), 2)
    raw = payload.raw[:-1] + bytes([payload.raw[-1] | 128])
    assert "padding" in refused(payload.with_(raw=raw), odd)


def test_padding_behind_the_escapes():
    packed = bytearray(PAYLOAD.with_(n_escapes=15, escapes=PAYLOAD.escapes[:30]))
    packed[-len(PAYLOAD.raw) - 1] = 1
    assert "padding" in refused(bytes(packed), ARRAY)


@pytest.mark.parametrize("raw_bits", [0, 2])
def test_escapes_of_an_alphabet_that_has_none(raw_bits):
    array = SMALL if raw_bits == 0 else ARRAY % 64
    payload = Payload.of(encode(array, raw_bits), array.itemsize)
    assert payload.escape == 0
    changed = payload.with_(n_escapes=1, escapes=bytes(array.itemsize))
    assert "more bytes or escapes" in refused(changed, array)


def test_tables_that_end_before_their_last_symbol():
    for seed in range(20):
        array = np.random.default_rng(seed).normal(0, 6, (20, 20)).astype(np.int8)
        payload = Payload.of(encode(array), 1)
        cut = payload.with_(parameters=payload.parameters[:-1])
        assert "frequency table" in refused(cut, array)


def described(payload: bytes, array: np.ndarray, form: int = 0, n_streams: int = 0) -> None:
    """What the host does for a GPU."""
    block = batch.frame_block(batch.RANS32, form, payload)
    data = bytearray(block.data.tobytes())
    data[6] = n_streams
    data = sealed(bytes(data))
    batch.describe_blocks(
        batch.Blocks(
            np.frombuffer(data, BLOCK_HEADER, 1),
            np.frombuffer(data + bytes(batch.READ_SLACK_BYTES), np.uint8),
        ),
        batch.RANS32,
        whole(array),
        array.nbytes,
        array.itemsize,
        data_address=0,
        matrix_address=0,
        layer="w",
        numbers=np.array([0]),
    )


def test_what_is_refused_before_it_goes_to_a_gpu():
    described(PAYLOAD.pack(), ARRAY)
    with pytest.raises(wcodec.CorruptError, match="its form does not fit"):
        described(PAYLOAD.pack(), ARRAY, form=2)
    with pytest.raises(wcodec.CorruptError, match="its number of streams"):
        described(PAYLOAD.pack(), ARRAY, n_streams=1)
    changed = BYTES.with_(n_escapes=1, escapes=b"\0")
    with pytest.raises(wcodec.CorruptError, match="more bytes or escapes"):
        described(changed, SMALL)
    with pytest.raises(wcodec.CorruptError, match="code"):
        described(PAYLOAD.with_(escapes=b"\xff\xff" + PAYLOAD.escapes[2:]), ARRAY)


@pytest.mark.parametrize("form", [2, 255])
def test_forms(form):
    assert "form" in refused(PAYLOAD.pack(), ARRAY, form)


def test_units_of_eight_bytes_have_bounded_raw_bits():
    array = np.random.default_rng(1).normal(0, 1, (20, 20))
    payload = Payload.of(encode(array, 2, sign_raw=True, exponent_bits=11), 8)
    assert "code" in refused(payload.with_(low_bits=8), array, 1)


def test_every_changed_byte_is_refused_or_decodes_alike():
    """Behind a right CRC other data may come out, but the same from both decoders. Of tables and
    classes every bit is changed, and every four are set, so that a class is above 15.
    """
    payload = BYTES.pack()
    number = int.from_bytes(payload, "little")
    begin = 8 * (20 + len(BYTES.runs))
    parameters = range(begin, begin + 8 * len(BYTES.parameters))
    variants = [number ^ 1 << bit for bit in {*range(0, 8 * len(payload), 9), *parameters}]
    variants += {number | 15 << bit for bit in parameters} - {number}
    n_accepted = 0
    for variant in variants:
        changed = variant.to_bytes(len(payload), "little")
        blocks = batch.frame_block(batch.RANS32, 0, changed)
        try:
            expected = decode_by_reference(blocks, SMALL)
        except reference_decoder().BadFile:
            with pytest.raises(wcodec.CorruptError, match="block 0 of 'w'"):
                decode(blocks, SMALL)
        else:
            n_accepted += 1
            assert decode(blocks, SMALL).tobytes() == expected
    assert n_accepted < len(variants) // 4


def test_every_prefix_is_refused():
    payload = BYTES.pack()
    for n in range(1, len(payload)):
        refused(payload[:n], SMALL)


def test_the_example_of_the_document():
    reference = reference_decoder()
    bits = reference.Bits(memoryview(bytes.fromhex("ec64")), "example")
    assert reference.read_levels(bits, 2) == [3277, 819]
    bits.finish()
