# SPDX-License-Identifier: Apache-2.0
"""The hex dump in docs/format.md is a file: it decodes, and the writer writes it."""

import io
import json
import re
from pathlib import Path

import numpy as np
from support.tools import reference_decoder

import wcodec
from wcodec import _core
from wcodec.codec import batch
from wcodec.container import LayerHead, Metadata, Writer, constants
from wcodec.dtypes import DTYPES

DOCUMENT = (Path(__file__).parents[2] / "docs" / "format.md").read_text()


def section(number: int) -> str:
    found = re.search(rf"^## {number}\. .*?(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def example() -> bytes:
    data = bytearray()
    for line in section(12).split("```")[1].strip().splitlines():
        offset, digits = re.match(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} ?)+)", line).groups()
        assert int(offset, 16) == len(data)
        data += bytes.fromhex(digits)
    return bytes(data)


def test_example_decodes(tmp_path):
    data = example()
    assert f"A whole file of {len(data)} bytes" in section(12)
    path = tmp_path / "example.wcodec"
    path.write_bytes(data)
    arrays = wcodec.decode_checkpoint(path)
    assert list(arrays) == ["w"]
    assert arrays["w"].dtype == np.uint8
    assert arrays["w"].tolist() == [1, 2, 3]
    assert wcodec.verify(path)["n_blocks"] == 1
    layers = reference_decoder().decode(data).layers
    assert layers == {"w": ("U8", (3,), b"\x01\x02\x03")}


def test_the_writer_writes_the_example():
    file = io.BytesIO()
    with Writer(file, metadata=Metadata("0.1.0")) as writer:
        head = LayerHead("w", "U8", (3,), 3, unit_bytes=1, block_rows=1, col_bands=1, panel_rows=1)
        writer.begin_layer(head)
        block = batch.frame_block(batch.RAW, 0, b"\x01\x02\x03")
        writer.write_blocks(block.headers, block.data)
        writer.end_layer()
    assert file.getvalue() == example()


def test_named_fields_of_the_example():
    """Offsets that the tables give, against the dump."""
    data = example()
    stored = int.from_bytes(data[8:16], "little")
    text = re.search(r"The metadata is `(.*)`", section(12))[1]
    assert data[32 : 32 + stored].decode() == text
    assert json.loads(text)["source"] is None
    index_offset = int.from_bytes(data[-32:-24], "little")
    record_offset = int.from_bytes(data[index_offset + 32 : index_offset + 40], "little")
    assert data[:4] == constants.HEADER_MAGIC
    assert data[record_offset : record_offset + 4] == constants.RECORD_MAGIC
    assert data[index_offset : index_offset + 4] == constants.INDEX_MAGIC
    assert data[-4:] == constants.FOOTER_MAGIC


def test_dtypes_and_field_maps_are_those_of_the_document():
    listed = re.search(r"\*\*Known dtypes\*\* and their bits:(.*?)\.\n", DOCUMENT, re.DOTALL)[1]
    pairs = re.findall(r"([A-Z0-9_]+) (\d+)", listed)
    assert {name: int(bits) for name, bits in pairs} == {d.name: d.bits for d in DTYPES.values()}
    row = r"^\| (\d+) \| ((?:bf|fp|int)\w+) \| (\d) \|.*\| (\d+) \|"
    rows = re.findall(row, DOCUMENT, re.MULTILINE)
    assert len(rows) == _core.N_FORMS - 1
    for form, name, unit_bytes, step_bytes in rows:
        facts = _core.field_map(int(form))
        assert facts["unit_bytes"] == int(unit_bytes)
        assert facts["step_bytes"] == int(step_bytes)
        zero_bits = int(name.rpartition("_z")[2]) if "_z" in name else 0
        assert facts["zero_bits"] == zero_bits


def test_version_table_names_this_version():
    assert f"# The wcodec format, version {constants.MAJOR}.{constants.MINOR}" in DOCUMENT
    assert f"| {constants.MAJOR}.{constants.MINOR} | wcodec" in section(13)
