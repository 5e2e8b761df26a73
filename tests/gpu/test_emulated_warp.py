# SPDX-License-Identifier: Apache-2.0
"""The GPU decoder's source, run on an emulated warp: right for every payload that the format
allows, wherever the output lies, and harmless for any bytes.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.emulated_warp import (
    CANARY,
    STATUS_BYTES,
    STATUS_ESCAPES,
    STATUS_STATES,
    Block,
    PayloadError,
    aligned,
    compiler,
    copy_block_emulated,
    decode_block_emulated,
    decode_blocks_sanitized,
    parse_payload,
    sanitized_program,
)
from support.rans16_streams import (
    FIELD_MAPS,
    FORMS,
    LANES,
    NO_ESCAPE,
    all_values,
    random_payload,
    random_table,
    step_raw_bytes,
)

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++20 compiler: set CXX")

# Steps around the tile of 4 and the 8 that a stream needs to run tiles at all; every kind of tail.
SIZES = [1, 2, 31, 32, 33, 127]
SIZES += [
    LANES * steps + tail for steps in (1, 2, 3, 4, 5, 7, 8, 9, 12, 13) for tail in (0, 1, 127)
]
SIZES += [LANES * 61 + 64, LANES * 200]


def check(payload, units, form, n_streams, **where):
    decoded, status = decode_block_emulated(payload, form, n_streams, len(units), **where)
    assert status == [0] * n_streams
    assert decoded == units.tobytes()


@pytest.mark.parametrize("n_streams", [1, 2, 4])
@pytest.mark.parametrize("form", FORMS)
def test_sizes(form, n_streams):
    rng = np.random.default_rng([form, n_streams])
    for n_units in SIZES:
        payload, units = random_payload(rng, form, n_units, n_streams)
        check(payload, units, form, n_streams)


def test_every_tail():
    rng = np.random.default_rng(1)
    for tail in range(LANES):
        form = FORMS[tail % len(FORMS)]
        payload, units = random_payload(rng, form, LANES * (tail % 3) + tail + 1, 1)
        check(payload, units, form, 1)


@pytest.mark.parametrize("form", FORMS)
def test_streams_of_64_ki_units(form):
    rng = np.random.default_rng(form)
    for n_units, n_streams in [(2 * 65536 + 77, 2), (4 * 65536 + LANES, 4)]:
        payload, units = random_payload(rng, form, n_units, n_streams)
        check(payload, units, form, n_streams)


TABLES = {
    "255/1": [255, 1],
    "1/255": [1, 255],
    "64 x 4": [4] * 64,
    "193 + 63 x 1": [193] + [1] * 63,
    "63 x 1 + 193": [1] * 63 + [193],
    "128/128": [128, 128],
}


@pytest.mark.parametrize("frequencies", TABLES.values(), ids=TABLES.keys())
@pytest.mark.parametrize("form", FORMS)
def test_tables(form, frequencies):
    rng = np.random.default_rng([form, *frequencies])
    if len(frequencies) > len(all_values(form)):
        pytest.skip("more symbols than the form has values")
    for has_escape in (False, True):
        for flat in (False, True):  # flat: as many bytes as a step can take
            table = random_table(rng, form, frequencies=frequencies, has_escape=has_escape)
            payload, units = random_payload(rng, form, LANES * 23 + 5, 2, table=table, flat=flat)
            check(payload, units, form, 2)


@pytest.mark.parametrize("form", FORMS)
def test_escapes_in_every_lane(form):
    rng = np.random.default_rng(form)
    table = random_table(rng, form, has_escape=True)
    lane = np.arange(LANES)
    ordinary = rng.integers(0, table.escape, (2 * LANES, LANES))
    one_lane = np.where(lane[:, None] == lane, table.escape, ordinary[:LANES])
    all_but_one = np.where(lane[:, None] != lane, table.escape, ordinary[LANES:])
    symbols = np.concatenate([one_lane, all_but_one])
    payload, units = random_payload(
        rng, form, LANES * len(symbols), 4, table=table, symbols=symbols
    )
    check(payload, units, form, 4)


@pytest.mark.parametrize("frequencies", [[1, 255], [255, 1]], ids=["likely", "unlikely"])
@pytest.mark.parametrize("form", FORMS)
def test_nothing_but_escapes(form, frequencies):
    rng = np.random.default_rng(form)
    table = random_table(rng, form, frequencies=frequencies, has_escape=True)
    symbols = np.full((37, LANES), table.escape)
    payload, units = random_payload(rng, form, LANES * 37 + 3, 2, table=table, symbols=symbols)
    check(payload, units, form, 2)


# ---- Where the output lies -----------------------------------------------------------------------


@pytest.mark.parametrize("row_steps", [1, 2, 3, 4, 7, 8, 9, 16])
@pytest.mark.parametrize("form", FORMS)
def test_strided_rows_of_whole_steps(form, row_steps):
    """The second to fourth stream begin inside a row."""
    rng = np.random.default_rng([form, row_steps])
    unit_bytes = FIELD_MAPS[form].unit_bytes
    row_units = LANES * row_steps
    for n_rows, n_streams in [(1, 2), (5, 1), (7, 2), (9, 4)]:
        payload, units = random_payload(rng, form, n_rows * row_units, n_streams)
        for gap in (1, 2, 8, 64, 1000):
            row_stride = (row_units + gap) * unit_bytes
            check(payload, units, form, n_streams, row_units=row_units, row_stride=row_stride)


@pytest.mark.parametrize("row_units", [1, 3, 127, 129, 200, 640 + 5])
@pytest.mark.parametrize("form", FORMS)
def test_strided_rows_of_any_width(form, row_units):
    rng = np.random.default_rng([form, row_units])
    unit_bytes = FIELD_MAPS[form].unit_bytes
    n_units = row_units * (1 + 1500 // row_units)
    payload, units = random_payload(rng, form, n_units, 2)
    for gap in (0, 1, 3, 8):
        row_stride = (row_units + gap) * unit_bytes
        check(payload, units, form, 2, row_units=row_units, row_stride=row_stride)


@pytest.mark.parametrize("form", FORMS)
def test_every_output_address(form):
    rng = np.random.default_rng(form)
    unit_bytes = FIELD_MAPS[form].unit_bytes
    payload, units = random_payload(rng, form, LANES * 12 + 9, 2)
    rows, row_units = random_payload(rng, form, LANES * 12, 2)
    for offset in range(34):
        check(payload, units, form, 2, output_offset=offset)
        row_stride = (LANES * 3 + 32) * unit_bytes
        check(
            rows,
            row_units,
            form,
            2,
            row_units=LANES * 3,
            row_stride=row_stride + offset,
            output_offset=offset % 5,
        )


# ---- Other coders --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_streams", [1, 2, 4])
@pytest.mark.parametrize("form", FORMS)
def test_blocks_of_the_encoder(form, n_streams):
    batch = pytest.importorskip("wcodec.codec.batch")
    rng = np.random.default_rng([form, n_streams])
    n_units = LANES * 50 + 31
    values = rng.normal(0, 0.02, n_units).astype(np.float32)
    values[rng.random(n_units) < 0.01] *= 2.0 ** rng.integers(-60, 60)
    if form == 3:
        with np.errstate(over="ignore"):
            units = values.astype(np.float16).view(np.uint16)
    elif FIELD_MAPS[form].unit_bytes == 1:
        units = np.clip(values * 100, -128, 127).astype(np.int8).view(np.uint8)
    elif FIELD_MAPS[form].unit_bytes == 2:
        units = (values.view(np.uint32) >> 16).astype(np.uint16)
    else:
        units = values.view(np.uint32) >> FIELD_MAPS[form].zero_bits << FIELD_MAPS[form].zero_bits
    unit_bytes = units.itemsize
    descriptors = np.zeros(1, batch.DESCRIPTOR)
    descriptors["row_stride"] = n_units * unit_bytes
    descriptors["row_index_first"] = batch.NO_ROW_INDEX
    descriptors["rows"] = 1
    descriptors["cols"] = n_units
    blocks = batch.encode_blocks(
        units.view(np.uint8),
        unit_bytes,
        descriptors,
        batch.NO_ROWS,
        family=batch.RANS16,
        form_set=1 << form,
        n_streams=n_streams,
        verify=True,
        threads=1,
    )
    header = blocks.headers[0]
    assert (header["coding"], header["form"], header["n_streams"]) == (2, form, n_streams)
    payload = blocks.data[16 : 16 + int(header["payload_bytes"])].tobytes()
    check(payload, units, form, n_streams)


# ---- Hostile bytes -------------------------------------------------------------------------------


def test_wrong_sizes_set_the_status():
    rng = np.random.default_rng(1)
    table = random_table(rng, 2, n_symbols=40, has_escape=True)
    payload, units = random_payload(rng, 2, LANES * 9, 1, table=table, flat=True)

    def status(change):
        block = Block(payload, 2, 1, len(units))
        change(block)
        return block.decode()[1][0]

    def more(name, by):
        def change(block):
            block.streams[name] = int(block.streams[name][0]) + by

        return change

    def other_state(block):
        data = bytearray(block.payload)
        data[int(block.streams["states_offset"][0]) + 64] ^= 0x80
        block.payload = bytes(data)

    assert status(lambda block: None) == 0
    assert status(more("stream_bytes", 1)) == STATUS_BYTES
    assert status(more("stream_bytes", -1)) & STATUS_BYTES
    assert status(more("n_escapes", 1)) == STATUS_ESCAPES
    assert status(more("n_escapes", -1)) == STATUS_ESCAPES
    assert status(other_state) & (STATUS_STATES | STATUS_BYTES)


def hostile_blocks(rng, n_blocks):
    """Blocks whose bytes after the table are not what they were; (block, units or None).

    With the units: only states and stream bytes were changed, what the status is for.
    """
    for i in range(n_blocks):
        form = FORMS[i % len(FORMS)]
        n_units = int(rng.integers(1, LANES * 30))
        n_streams = int(rng.choice([1, 2, 4]))
        payload, units = random_payload(rng, form, n_units, n_streams, flat=bool(i % 2))
        block = Block(payload, form, n_streams, n_units, output_offset=int(rng.choice([0, 0, 6])))
        data = np.frombuffer(payload, np.uint8).copy()
        begin = int(block.streams["states_offset"][0])
        end = int(block.streams["escapes_offset"][0])
        kind = i // len(FORMS) % 6
        if kind == 0:
            data[begin:] = rng.integers(0, 256, len(data) - begin)
        elif kind == 1:
            data[begin:] = rng.choice([0x00, 0xFF, 0x01, 0x80])
        elif kind == 2:  # fewer bytes and escapes than the data asks for
            block.streams["stream_bytes"] //= 2
            block.streams["n_escapes"] //= 2
        elif kind == 3:
            at = rng.integers(begin, len(data), 1 + i % 7)
            data[at] ^= rng.integers(1, 256, len(at)).astype(np.uint8)
        else:
            at = begin + 256 * (kind == 5) + rng.integers(0, max(1, end - begin - 256), 1 + i % 3)
            data[at] ^= rng.integers(1, 256, len(at)).astype(np.uint8)
        block.payload = data.tobytes()
        yield block, units if kind > 3 else None


def test_hostile_bytes_under_sanitizers():
    try:
        sanitized_program()
    except RuntimeError as error:
        pytest.skip(f"no sanitizers: {error}")
    rng = np.random.default_rng(7)
    cases = list(hostile_blocks(rng, 54 * 10))
    answers = decode_blocks_sanitized([block for block, _ in cases])
    n_wrong = n_missed = 0
    for (block, units), (decoded, status) in zip(cases, answers, strict=True):
        assert block.decode() == (decoded, status)
        assert all(s <= STATUS_STATES | STATUS_BYTES | STATUS_ESCAPES for s in status)
        if units is not None and decoded != units.tobytes():
            n_wrong += 1
            n_missed += not any(status)
    # The status is no checksum: a changed lane may take as many bytes and end in the same state.
    assert n_wrong > 150
    assert n_missed <= n_wrong // 20


def test_valid_blocks_under_sanitizers():
    try:
        sanitized_program()
    except RuntimeError as error:
        pytest.skip(f"no sanitizers: {error}")
    rng = np.random.default_rng(8)
    blocks, expected = [], []
    for form in FORMS:
        unit_bytes = FIELD_MAPS[form].unit_bytes
        for n_steps in (0, 1, 4, 8, 21):
            for where in (
                {},
                {"output_offset": 1},
                {"row_units": LANES, "row_stride": (LANES + 16) * unit_bytes},
                {"row_units": 64, "row_stride": 65 * unit_bytes},
            ):
                n_units = LANES * n_steps if "row_units" in where else LANES * n_steps + 77
                if n_units:
                    payload, units = random_payload(rng, form, n_units, 2, flat=True)
                    blocks.append(Block(payload, form, 2, n_units, **where))
                    expected.append((units.tobytes(), [0, 0]))
    assert decode_blocks_sanitized(blocks) == expected


# ---- The checks of the host ----------------------------------------------------------------------


def test_payload_header_is_checked():
    rng = np.random.default_rng(3)
    form, n_streams, n_units = 2, 2, LANES * 9 + 5
    table = random_table(rng, form, n_symbols=11, has_escape=True)
    payload, _ = random_payload(rng, form, n_units, n_streams, table=table)
    parse_payload(payload, form, n_streams, n_units)

    def refused(match=None, data=payload, *, units=n_units, streams=n_streams, form=form):
        with pytest.raises(PayloadError, match=match):
            parse_payload(data, form, streams, units)

    def edited(at, value):
        data = bytearray(payload)
        data[at] = value
        return bytes(data)

    for size in range(len(payload)):
        refused(data=payload[:size])
    refused("its fields say", payload + b"\0")
    refused("form", form=0)
    refused("form", form=15)
    refused("streams", streams=3)
    refused("units", units=0)
    refused("units", units=(1 << 24) + 1)
    refused(units=n_units + 1)
    refused(units=n_units - 1)
    refused("symbols", edited(0, 1))
    refused("symbols", edited(0, 65))
    refused("escape 0", edited(1, 0))
    refused("no escape symbol|without an escape|ascending", edited(1, NO_ESCAPE))
    refused("reserved", edited(2, 1))
    refused("reserved", edited(3, 1))
    refused("stream of", edited(4 + 3, 1))
    refused("escapes", edited(8 + 3, 1))
    table_at = 4 + 8 * n_streams
    refused("zero", edited(table_at, 0))
    refused("sum", edited(table_at, (payload[table_at] + 1) % 256 or 1))
    refused("padding", edited(table_at + 11, 1))
    refused("outside", edited(table_at + 12, payload[table_at + 12] | 1))
    refused("outside", edited(table_at + 13, payload[table_at + 13] | 0x80))
    refused("ascending", edited(table_at + 13, 0x7F))
    refused("not zero", edited(table_at + 12 + 21, 0x40))
    refused("padding", edited(table_at + 12 + 22, 1))


# ---- Raw and constant blocks ---------------------------------------------------------------------


@pytest.mark.parametrize("unit_bytes", [1, 2, 4, 8])
def test_copies(unit_bytes):
    rng = np.random.default_rng(unit_bytes)
    for n_rows in (1, 2, 9):
        for row_units in (1, 5, 64, 700):
            for gap in (0, unit_bytes, 16):
                for offset in (0, 1, 4, 8):
                    row_bytes = row_units * unit_bytes
                    stride = row_bytes + gap
                    source = aligned(n_rows * row_bytes)
                    source[:] = rng.integers(0, 256, source.size)
                    constant = np.tile(source[:unit_bytes], n_rows * row_units)
                    for data, constant_bytes in ((source, 0), (constant, unit_bytes)):
                        output = aligned(64 + n_rows * stride + 64, offset)
                        copy_block_emulated(
                            source,
                            output[64:],
                            row_stride=stride,
                            row_bytes=row_bytes,
                            n_rows=n_rows,
                            unit_bytes=constant_bytes,
                        )
                        rows = output[64:-64].reshape(n_rows, stride)
                        assert rows[:, :row_bytes].tobytes() == data.tobytes()
                        rows[:, :row_bytes] = CANARY
                        assert (output == CANARY).all()


@pytest.mark.parametrize("row_bytes", [1, 6, 64, 1000])
def test_copies_to_rows_of_a_map(row_bytes):
    rng = np.random.default_rng(row_bytes)
    for n_rows, offset, gap in ((1, 0, 0), (5, 0, 16), (5, 3, 1)):
        source = aligned(n_rows * (row_bytes + gap))
        source[:] = rng.integers(0, 256, source.size)
        row_map = rng.permutation(9)[:n_rows].astype(np.uint32)
        row_map[2:3] = 0xFFFFFFFF  # not wanted
        wanted = row_map != 0xFFFFFFFF
        stride = row_bytes + 8
        output = aligned(10 * stride, offset)
        copy_block_emulated(
            source,
            output,
            row_stride=stride,
            row_bytes=row_bytes,
            n_rows=n_rows,
            row_map=row_map,
            source_stride=row_bytes + gap,
        )
        rows = output.reshape(10, stride)
        expected = source.reshape(n_rows, -1)[wanted, :row_bytes]
        assert rows[row_map[wanted], :row_bytes].tobytes() == expected.tobytes()
        rows[row_map[wanted], :row_bytes] = CANARY
        assert (output == CANARY).all()


def test_step_raw_bytes():
    """The figures of docs/format.md, by form."""
    assert [step_raw_bytes(form) for form in FORMS] == [
        *(128, 112, 160, 384, 368, 176, 160, 128, 112),
        *(64, 48, 32, 0, 48),
    ]
