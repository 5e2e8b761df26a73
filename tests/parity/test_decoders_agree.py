# SPDX-License-Identifier: Apache-2.0
"""All decoders of rans16 give the same bytes: the core, the emulated GPU warp and the reference
decoder.

Over what the encoder writes, and over random legal payloads with tables and streams that it would
never write.
"""

import numpy as np
import pytest
from support.arrays import FLOATS, float_patterns
from support.emulated_warp import compiler, decode_block_emulated
from support.rans16_streams import FIELD_MAPS, random_payload
from support.tools import reference_decoder

from wcodec.block_header import BLOCK_HEADER
from wcodec.codec import batch
from wcodec.codec.layout import Grid
from wcodec.errors import CorruptError

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++20 compiler")
FORM_SETS = {"BF16": batch.BF16_FORMS, "F16": batch.FP16_FORMS, "F32": batch.FP32_FORMS}


def descriptors_of(n_units: int, w: int) -> np.ndarray:
    (window,) = Grid(1, n_units, w, 1, 1, 1, False).windows(1 << 30)
    return window.descriptors


def core_decode(blocks: batch.Blocks, n_units: int, w: int) -> bytes:
    out = np.full(n_units * w, 0xA5, np.uint8)
    slack = np.zeros(batch.READ_SLACK_BYTES, np.uint8)
    padded = batch.Blocks(blocks.headers, np.concatenate([blocks.data, slack]))
    batch.decode_blocks(
        padded,
        batch.RANS16,
        descriptors_of(n_units, w),
        batch.NO_ROWS,
        out,
        w,
        threads=1,
        layer="x",
        first_block=0,
    )
    return out.tobytes()


def reference_decode(payload: bytes, form: int, n_streams: int, n_units: int, w: int) -> bytes:
    reference = reference_decoder()
    block = reference.Block(b"", batch.RANS16, form, n_streams, memoryview(payload), "x")
    return reference.decode_rans16(block, n_units, w).tobytes()


def framed(payload: bytes, form: int, n_streams: int) -> batch.Blocks:
    """A sealed rans16 block around a payload."""
    from wcodec.checksum import crc32

    header = np.zeros(1, BLOCK_HEADER)
    header["coding"], header["form"], header["n_streams"] = batch.RANS16, form, n_streams
    header["payload_bytes"] = len(payload)
    rest = payload + bytes(-len(payload) % 16)
    header["crc"] = crc32(header.tobytes()[4:] + rest)
    return batch.Blocks(header, np.frombuffer(header.tobytes() + rest, np.uint8))


@needs_compiler
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n_streams", [1, 2, 4])
@pytest.mark.parametrize("n", [512, 1000, 128 * 21 + 127, 30_000])
def test_on_what_the_encoder_writes(dtype, n_streams, n):
    n_rans16 = 0
    for words in float_patterns(dtype, n).values():
        w = words.itemsize
        blocks = batch.encode_blocks(
            words.view(np.uint8),
            w,
            descriptors_of(n, w),
            batch.NO_ROWS,
            family=batch.RANS16,
            form_set=FORM_SETS[dtype],
            n_streams=n_streams,
            verify=True,
            threads=1,
        )
        assert core_decode(blocks, n, w) == words.tobytes()
        header = blocks.headers[0]
        if header["coding"] != batch.RANS16:
            continue
        n_rans16 += 1
        payload = blocks.data[16 : 16 + int(header["payload_bytes"])].tobytes()
        form = int(header["form"])
        decoded, statuses = decode_block_emulated(payload, form, n_streams, n)
        assert decoded == words.tobytes()
        assert not any(statuses)
        assert reference_decode(payload, form, n_streams, n, w) == words.tobytes()
    assert n_rans16 >= (3 if n > 2000 else 0)


@pytest.mark.parametrize("form", sorted(FIELD_MAPS))
def test_on_random_legal_payloads(form):
    random = np.random.default_rng(form)
    w = FIELD_MAPS[form].unit_bytes
    for n in (1, 100, 128, 129, 1000, 128 * 9, 128 * 40 + 5):
        for n_streams in (1, 2, 4):
            payload, units = random_payload(random, form, n, n_streams)
            assert core_decode(framed(payload, form, n_streams), n, w) == units.tobytes()
            assert reference_decode(payload, form, n_streams, n, w) == units.tobytes()


@pytest.mark.parametrize("form", sorted(FIELD_MAPS))
def test_resealed_mutations_are_refused_or_decode_alike(form):
    """A mutated payload under a good CRC: the core and the reference accept and refuse the same."""
    random = np.random.default_rng(100 + form)
    reference = reference_decoder()
    w = FIELD_MAPS[form].unit_bytes
    n, accepted = 128 * 6 + 3, 0
    for n_streams in (1, 2):
        payload, _ = random_payload(random, form, n, n_streams)
        places = set(range(min(len(payload), 120))) | set(random.integers(0, len(payload), 150))
        for at in sorted(places):
            mutated = bytearray(payload)
            mutated[at] ^= int(random.integers(1, 256))
            mutated = bytes(mutated)
            try:
                expected = reference_decode(mutated, form, n_streams, n, w)
            except reference.BadFile:
                with pytest.raises(CorruptError, match="block 0 of 'x'"):
                    core_decode(framed(mutated, form, n_streams), n, w)
            else:
                assert core_decode(framed(mutated, form, n_streams), n, w) == expected
                accepted += 1
    assert accepted > 0  # raw fields may hold anything


@pytest.mark.parametrize("size", [-17, -16, -1, 1, 16])
def test_payload_of_another_size(size):
    random = np.random.default_rng(1)
    payload, _ = random_payload(random, 2, 1000, 2)
    changed = payload[:size] if size < 0 else payload + bytes(size)
    with pytest.raises(CorruptError, match=r"payload_bytes|padding"):
        core_decode(framed(changed, 2, 2), 1000, 2)
