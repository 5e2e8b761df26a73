# SPDX-License-Identifier: Apache-2.0
"""The table of dtypes against safetensors' own list, numpy and ml_dtypes."""

import json
import math
import re

import ml_dtypes
import numpy as np
import pytest
from safetensors import SafetensorError, deserialize

from wcodec import dtypes
from wcodec.dtypes import DTYPES, bits, data_bits, dtype_name, numpy_dtype, overflows, unit_bytes


def test_the_list_is_that_of_safetensors():
    header = b'{"a":{"dtype":"?","shape":[],"data_offsets":[0,0]}}'
    with pytest.raises(SafetensorError) as caught:
        deserialize(len(header).to_bytes(8, "little") + header)
    assert re.findall("`([A-Z0-9_]+)`", str(caught.value)) == list(DTYPES)
    assert len(DTYPES) == 22


@pytest.mark.parametrize("name", DTYPES)
def test_bits_are_those_of_safetensors(name):
    n_bits = bits(name)
    size = n_bits  # of 8 elements
    header = b'{"a":{"dtype":"%b","shape":[8],"data_offsets":[0,%d]}}' % (name.encode(), size)
    for extra, sound in ((0, True), (1, False)):
        data = len(header).to_bytes(8, "little") + header + bytes(size + extra)
        try:
            deserialize(data)
        except SafetensorError:
            assert not sound
        else:
            assert sound
    assert data_bits(name, (3, 5)) == 15 * n_bits


def test_units():
    sizes = {"F64": 8, "C64": 8, "U64": 8, "F32": 4, "BF16": 2, "F16": 2, "I8": 1, "F8_E8M0": 1}
    for name, size in sizes.items():
        assert unit_bytes(name) == size
    for name in ("F4", "F6_E2M3", "F6_E3M2", "X9", ""):
        assert unit_bytes(name) == 1


@pytest.mark.parametrize("name", [name for name in DTYPES if bits(name) % 8 == 0])
def test_whole_byte_dtypes_and_numpy_are_mirrors(name):
    dtype = numpy_dtype(name)
    assert dtype.itemsize == unit_bytes(name)
    assert dtype_name(dtype) == name
    assert numpy_dtype(name) is dtype


def test_what_is_not_whole_bytes_or_not_known_is_bytes():
    for name in ("F4", "F6_E2M3", "F6_E3M2", "X9"):
        assert numpy_dtype(name) == np.uint8
    assert bits("X9") is None
    assert data_bits("X9", (2,)) is None
    assert dtype_name(np.dtype(np.uint8)) == "U8"


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("U8", (), False),
        ("U8", (2**61 - 1,), False),
        ("U8", (2**61,), True),
        ("F64", (2**29, 2**29), True),
        ("F4", (2**62 - 1,), False),
        ("X9", (2**63, 1), False),
        ("X9", (2**63, 2), True),
        ("F64", (2**63, 0), False),
        ("U8", (2**63, 2, 0), True),
        ("U8", (0, 2**63, 2), False),
    ],
)
def test_overflow_is_where_safetensors_has_it(name, shape, expected):
    assert overflows(name, shape) == expected
    if name == "X9":
        return
    size = math.prod(shape) * bits(name) // 8
    header = json.dumps({"a": {"dtype": name, "shape": shape, "data_offsets": [0, size]}}).encode()
    try:
        deserialize(len(header).to_bytes(8, "little") + header + bytes(min(size, 1)))
        found = ""
    except SafetensorError as error:
        found = str(error)
    assert ("overflow" in found) == expected


def test_floats_of_ml_dtypes_have_the_bits_of_the_names():
    one = {"BF16": 0x3F80, "F8_E4M3": 0x38, "F8_E5M2": 0x3C, "F8_E8M0": 0x7F}
    one |= {"F8_E4M3FNUZ": 0x40, "F8_E5M2FNUZ": 0x40}
    for name, expected in one.items():
        dtype = numpy_dtype(name)
        unsigned = {1: np.uint8, 2: np.uint16}[dtype.itemsize]
        assert np.array([1.0]).astype(dtype).view(unsigned)[0] == expected


@pytest.mark.parametrize(
    "dtype",
    ["S3", "U3", "O", "M8[s]", "f16", "c16", "V4", [("a", "f4")], ml_dtypes.float4_e2m1fn],
)
def test_dtypes_without_a_name(dtype):
    with pytest.raises(ValueError, match="has no safetensors name; known are bool, uint8"):
        dtype_name(np.dtype(dtype))


def test_foreign_byte_order_is_refused():
    with pytest.raises(ValueError, match="foreign byte order"):
        dtype_name(np.dtype(">f4"))
    assert dtype_name(np.dtype("longlong")) == "I64"


def test_ml_dtypes_is_not_imported_before_it_is_needed():
    assert "ml_dtypes" not in vars(dtypes)
