# SPDX-License-Identifier: Apache-2.0
"""The strict reader against safetensors itself: what that refuses is refused, and what it writes is
what canonical_header gives.
"""

import json
import os
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, TensorSpec, deserialize, serialize

from wcodec.dtypes import DTYPES, bits
from wcodec.errors import CorruptError, FormatError, LimitError, TruncatedError
from wcodec.safetensors_file import (
    MAX_HEADER_BYTES,
    SafetensorsFile,
    canonical_header,
    canonical_order,
    header_bytes,
    parse_header,
)

A = '"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
B = '"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[4,8]}'


def file_bytes(header: str | bytes, data: bytes = b"") -> bytes:
    if isinstance(header, str):
        header = header.encode("utf-8", "surrogatepass")
    return len(header).to_bytes(8, "little") + header + data


def with_info(**change: object) -> str:
    info = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} | change
    return json.dumps({"a": {key: value for key, value in info.items() if value is not ...}})


@pytest.fixture
def write(tmp_path):
    def write(data: bytes):
        path = tmp_path / "model.safetensors"
        path.write_bytes(data)
        return path

    return write


def test_a_file_is_read_as_it_is(write):
    header = '{"__metadata__":{"format":"pt"},' + B + "," + A + "}   "
    with SafetensorsFile(write(file_bytes(header, b"abcdefgh"))) as file:
        assert file.header == header.encode()
        assert file.metadata == {"format": "pt"}
        assert [(t.name, t.dtype, t.shape, t.start, t.end) for t in file.tensors] == [
            ("a", "U8", (4,), 0, 4),
            ("b", "BF16", (2, 1), 4, 8),
        ]
        assert [tensor.data_bytes for tensor in file.tensors] == [4, 4]
        assert file.data_bytes == 8
        assert file.file_bytes == 8 + len(header) + 8
        out = np.zeros(5, np.uint8)
        file.read_into(2, out)
        assert out.tobytes() == b"cdefg"
        file.read_into(8, out[:0])
        for start, size in ((4, 5), (-1, 1), (9, 0)):
            with pytest.raises(ValueError, match=f"bytes {start} to {start + size} of 8"):
                file.read_into(start, out[:size])


def test_a_header_alone(write):
    parsed = parse_header(("{" + A + "}").encode())
    assert parsed.data_bytes == 4
    assert parsed.metadata is None
    assert parse_header(b"{}").tensors == []
    assert parse_header(b"{}", 0).data_bytes == 0
    assert parse_header(b'{"__metadata__":null}').metadata is None
    assert parse_header(b'{"__metadata__":{}}').metadata == {}


# Header, data, error and message; safetensors refuses each as well.
REFUSED = [
    ("{" + A + "}", b"abc", TruncatedError, "its tensors have 4 bytes, the file has 3"),
    ("{" + A + "}", b"abcde", CorruptError, "its tensors have 4 bytes, the file has 5"),
    ("{}", b"x", CorruptError, "its tensors have 0 bytes, the file has 1"),
    ("", b"", CorruptError, "starts with b''"),
    ("[]", b"", CorruptError, r"starts with b'\['"),
    ("{" + A, b"abcd", CorruptError, "not valid JSON"),
    ("{" + A + "}x", b"abcd", CorruptError, "not valid JSON: Extra data"),
    (b'{"\xff":1}', b"", CorruptError, "not UTF-8 at byte 2"),
    ('{"\\ud800":{}}', b"", CorruptError, "lone surrogate"),
    ('{"\x01":{}}', b"", CorruptError, "control character"),
    ('{"__metadata__":{"a":1}}', b"", CorruptError, "__metadata__ maps 'a' to 1, not text"),
    ('{"__metadata__":[]}', b"", CorruptError, "__metadata__ is list, not an object"),
    ('{"a":1}', b"", CorruptError, "tensor 'a': is int, expected an object"),
    (with_info(dtype=...), b"abcd", CorruptError, "tensor 'a': has no dtype"),
    (with_info(shape=..., dtype=...), b"abcd", CorruptError, "has no dtype and no shape"),
    (with_info(data_offsets=...), b"abcd", CorruptError, "has no data_offsets"),
    (with_info(dtype=8), b"abcd", CorruptError, "dtype is 8, expected text"),
    (with_info(shape=4), b"abcd", CorruptError, "shape is 4, expected sizes"),
    (with_info(shape=[4.0]), b"abcd", CorruptError, r"shape is \[4.0\]"),
    (with_info(shape=[True, 4]), b"abcd", CorruptError, r"shape is \[True, 4\]"),
    (with_info(shape=[-4]), b"abcd", CorruptError, r"shape is \[-4\]"),
    (with_info(shape=[2**64, 0], data_offsets=[0, 0]), b"", CorruptError, "shape is"),
    (with_info(data_offsets=[0]), b"abcd", CorruptError, r"data_offsets is \[0\]"),
    (with_info(data_offsets=[0, 4, 4]), b"abcd", CorruptError, "data_offsets is"),
    (with_info(data_offsets=[0, -4]), b"abcd", CorruptError, "data_offsets is"),
    (with_info(data_offsets=[0, "4"]), b"abcd", CorruptError, "data_offsets is"),
    (with_info(data_offsets=[0, 2**64]), b"abcd", CorruptError, "data_offsets is"),
    (with_info().replace("[0,", "[-0,"), b"abcd", CorruptError, r"data_offsets is \[-0.0, 4\]"),
    (with_info(data_offsets=[4, 0]), b"abcd", CorruptError, "which ends before it begins"),
    (with_info(shape=[5]), b"abcd", CorruptError, r"give it 4 bytes, U8 \[5\] has 40 bits"),
    (with_info(dtype="F4", shape=[7]), b"abcd", CorruptError, "has 28 bits"),
    (with_info(dtype="F6_E3M2", shape=[5]), b"abcd", CorruptError, "has 30 bits"),
    (with_info(shape=[2**63, 2]), b"abcd", CorruptError, "overflows 64 bits"),
    (with_info(shape=[2**63, 2, 0], data_offsets=[0, 0]), b"", CorruptError, "overflows 64 bits"),
    (with_info(dtype="F64", shape=[2**58], data_offsets=[0, 2**61]), b"", CorruptError, "overfl"),
    (with_info(data_offsets=[1, 5]), b"abcde", CorruptError, "leave a gap, expected to begin at 0"),
    ("{" + A + "," + B.replace("[4,8]", "[5,9]") + "}", b"abcdefghi", CorruptError, "'b'.*a gap"),
    ("{" + A + "," + B.replace("[4,8]", "[3,7]") + "}", b"abcdefg", CorruptError, "'b'.*overlap"),
    (
        "{" + A + ',"z":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}',
        b"abcd",
        CorruptError,
        "'z'.*overlap",
    ),
    ('{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}', b"abcd",
     CorruptError, "key 'dtype' occurs twice"),
    ('{"__metadata__":{},"__metadata__":{}}', b"", CorruptError, "'__metadata__' occurs twice"),
    (with_info(extra=...)[:-2] + ',"x":' + "[" * 126 + "]" * 126 + "}}", b"abcd", CorruptError,
     "key 'x' nests deeper than 127"),
    (with_info()[:-2] + ',"x":NaN}}', b"abcd", CorruptError, "NaN is not JSON"),
    (with_info()[:-2] + ',"x":1e999}}', b"abcd", CorruptError, "out of range"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "data", "error", "message"), REFUSED)
def test_refused_as_safetensors_refuses_it(write, header, data, error, message):
    path = write(file_bytes(header, data))
    with pytest.raises(SafetensorError):
        deserialize(path.read_bytes())
    with pytest.raises(error, match=message) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value)


# What safetensors takes and we do not, each for a reason.
STRICTER = [
    ("{" + A + "," + A + "}", b"abcd", "key 'a' occurs twice"),
    ('{"__metadata__":{"x":"1","x":"2"},' + A + "}", b"abcd", "key 'x' occurs twice"),
    (with_info()[:-2] + ',"x":1,"x":2}}', b"abcd", "key 'x' occurs twice"),
    (" {" + A + "}", b"abcd", "starts with b' '"),
    ('{"a":["U8",[4],[0,4]]}', b"abcd", "is list, expected an object"),
    (with_info(dtype={"U8": None}), b"abcd", "expected text"),
]


@pytest.mark.parametrize(("header", "data", "message"), STRICTER)
def test_refused_although_safetensors_takes_it(header, data, message):
    deserialize(file_bytes(header, data))
    with pytest.raises(CorruptError, match=message):
        parse_header(header.encode(), len(data))


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ("{" + A + "}", b"abcd"),
        ("{" + A + "} \n\t\r  ", b"abcd"),
        ("{ " + A + " , " + B + " }", b"abcdefgh"),
        ("{" + B + "," + A + "}", b"abcdefgh"),
        ('{"__metadata__":null,' + A + "}", b"abcd"),
        ('{"":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"a"),
        ('{"\\ud83d\\ude00\\u0000":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"a"),
        (with_info(shape=[0, 2**63, 4], data_offsets=[0, 0]), b""),
        (with_info(dtype="F4", shape=[2, 4]), b"abcd"),
        (with_info(dtype="F6_E2M3", shape=[4], data_offsets=[0, 3]), b"abc"),
        (with_info()[:-2] + ',"x":' + "[" * 125 + "]" * 125 + "}}", b"abcd"),
        ("{" + A + ',"z":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}', b"abcd"),
        ('{"-0":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', b""),
    ],
)
def test_taken_as_safetensors_takes_it(header, data):
    expected = dict(deserialize(file_bytes(header, data)))
    parsed = parse_header(header.encode(), len(data))
    assert {t.name for t in parsed.tensors} == expected.keys()
    for tensor in parsed.tensors:
        info = expected[tensor.name]
        assert (tensor.dtype, list(tensor.shape)) == (info["dtype"], info["shape"])
        assert data[tensor.start : tensor.end] == bytes(info["data"])


def test_unknown_dtypes_are_bytes():
    (tensor,) = parse_header(with_info(dtype="F128", shape=[3]).encode(), 4).tensors
    assert (tensor.dtype, tensor.shape, tensor.data_bytes) == ("F128", (3,), 4)
    with pytest.raises(CorruptError, match="overflows"):
        parse_header(with_info(dtype="F128", shape=[2**63, 2]).encode(), 4)


def test_empty_tensors_at_one_offset_stay_in_the_order_of_the_header():
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    names = ["z", "a", "m"]
    parsed = parse_header(json.dumps(dict.fromkeys(names, empty)).encode())
    assert [tensor.name for tensor in parsed.tensors] == names


def test_every_prefix_is_truncated(write):
    data = file_bytes("{" + A + "," + B + "}", b"abcdefgh")
    for size in range(len(data)):
        with pytest.raises(TruncatedError):
            SafetensorsFile(write(data[:size]))


def test_every_changed_byte_is_refused_if_safetensors_refuses_it(write):
    data = file_bytes('{"__metadata__":{"k":"v"},' + A + "," + B + "}  ", b"abcdefgh")
    for offset in range(len(data)):
        for flip in (1, 2, 4, 16, 32, 128):
            changed = bytearray(data)
            changed[offset] ^= flip
            check_against_safetensors(write, bytes(changed))


def check_against_safetensors(write, data: bytes) -> None:
    try:
        expected = deserialize(data)
    except SafetensorError as error:
        if "unknown variant" in str(error):  # a dtype: bytes for us
            return
        with pytest.raises(FormatError):
            SafetensorsFile(write(data)).close()
        return
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    if header.lstrip() != header or has_duplicates(header):
        with pytest.raises(CorruptError, match=r"occurs twice|starts with"):
            SafetensorsFile(write(data)).close()
        return
    with SafetensorsFile(write(data)) as file:
        assert sorted(t.name for t in file.tensors) == sorted(name for name, _ in expected)


def has_duplicates(header: bytes) -> bool:
    found = []

    def look(pairs):
        found.append(len(dict(pairs)) < len(pairs))
        return dict(pairs)

    json.loads(header, object_pairs_hook=look)
    return any(found)


HEADER_PARTS = st.lists(
    st.sampled_from(
        [
            *"{}[],: 04",
            "-0",
            "1.0",
            "18446744073709551616",
            "null",
            "true",
            '"a"',
            '"\\ud800"',
            A,
            B,
        ]
        + [f'"{word}"' for word in ("dtype", "shape", "data_offsets", "__metadata__", "U8", "F4")]
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(HEADER_PARTS, st.integers(0, 9))
def test_random_headers_against_safetensors(tmp_path_factory, parts, n_data):
    path = tmp_path_factory.getbasetemp() / "random.safetensors"

    def write(data):
        path.write_bytes(data)
        return path

    check_against_safetensors(write, file_bytes("{" + "".join(parts), bytes(n_data)))


def test_a_header_that_is_too_large(write):
    data = (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}"
    with pytest.raises(SafetensorError):
        deserialize(data)
    with pytest.raises(LimitError, match="100000001 bytes, safetensors allows 100000000"):
        SafetensorsFile(write(data))
    with pytest.raises(LimitError, match="no safetensors file, or its header is too large"):
        SafetensorsFile(write(b"WCDC\0\1\0\0" + bytes(100)))
    with pytest.raises(LimitError, match="safetensors allows"):
        parse_header(b"{}" + b" " * MAX_HEADER_BYTES)
    assert header_bytes((100).to_bytes(8, "little")) == 100


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        SafetensorsFile(tmp_path / "missing")
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(ValueError, match="is not a regular file"):
            SafetensorsFile(path)


def test_a_file_that_becomes_shorter(write):
    path = write(file_bytes("{" + A + "}", b"abcd"))
    with SafetensorsFile(path) as file:
        os.truncate(path, path.stat().st_size - 2)
        with pytest.raises(TruncatedError, match="2 of 4 bytes at offset"):
            file.read_into(0, np.zeros(4, np.uint8))


def test_no_descriptor_is_left_open_after_an_error(write):
    path = write(b"12")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TruncatedError):
        SafetensorsFile(path)
    assert len(os.listdir("/proc/self/fd")) == before


@dataclass(frozen=True)
class Spec:
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def data_bytes(self) -> int:
        return int(np.prod(self.shape)) * bits(self.dtype) // 8


# The names by which safetensors' own writer takes dtypes; it cannot write the two F6.
WRITABLE = {
    "BOOL": "bool", "F4": "float4_e2m1fn_x2", "U8": "uint8", "I8": "int8",
    "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "I16": "int16",
    "U16": "uint16", "F16": "float16", "BF16": "bfloat16", "I32": "int32", "U32": "uint32",
    "F32": "float32", "C64": "complex64", "F64": "float64", "I64": "int64", "U64": "uint64",
}  # fmt: skip


def written_by_safetensors(specs, metadata):
    memory = np.zeros(max([1, *(spec.data_bytes for spec in specs)]), np.uint8)
    tensors = {}
    for spec in specs:
        shape = list(spec.shape)
        if spec.dtype == "F4":
            shape[-1] //= 2
        tensors[spec.name] = TensorSpec(
            dtype=WRITABLE[spec.dtype],
            shape=shape,
            data_ptr=memory.ctypes.data,
            data_len=spec.data_bytes,
        )
    data = serialize(tensors, metadata)
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def test_every_writable_dtype_is_here():
    assert [name for name in DTYPES if name not in WRITABLE] == ["F6_E2M3", "F6_E3M2"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
SPECS = st.lists(
    st.builds(
        lambda name, dtype, shape: Spec(name, dtype, (*shape, 2) if dtype == "F4" else shape),
        TEXT.filter(lambda name: name != "__metadata__"),
        st.sampled_from(sorted(WRITABLE)),
        SHAPES,
    ),
    unique_by=lambda spec: spec.name,
    max_size=8,
)


@settings(max_examples=500, deadline=None)
@given(SPECS, st.none() | st.dictionaries(TEXT, TEXT, min_size=1, max_size=1))
def test_the_canonical_header_is_the_one_safetensors_writes(specs, metadata):
    header = canonical_header(specs, metadata or {})
    assert header.encode() == written_by_safetensors(specs, metadata)
    parsed = parse_header(header.encode())
    assert [t.name for t in parsed.tensors] == [
        spec.name for spec in canonical_order(specs)
    ] or any(spec.data_bytes == 0 for spec in specs)


def test_all_dtypes_in_one_canonical_header():
    specs = [Spec(f"{name}.{i}", name, (4,)) for i in (10, 9, 1) for name in WRITABLE]
    header = canonical_header(specs, {"format": "pt"})
    assert header.encode() == written_by_safetensors(specs, {"format": "pt"})
    assert [t.name for t in parse_header(header.encode()).tensors] == [
        spec.name for spec in canonical_order(specs)
    ]


def test_metadata_are_sorted_and_empty_ones_left_out():
    """safetensors takes the order of a hash map, which changes from run to run, and writes broken
    JSON for empty metadata without tensors.
    """
    many = canonical_header([], {"b": "1", "a": "2", "c": "3"})
    assert many.startswith('{"__metadata__":{"a":"2","b":"1","c":"3"}}')
    theirs = written_by_safetensors([], {"b": "1", "a": "2", "c": "3"})
    assert json.loads(theirs) == json.loads(many)
    assert len(theirs) == len(many)
    assert canonical_header([], {}) == "{}      "


def test_dtypes_that_safetensors_cannot_write_have_their_place():
    specs = [Spec(name, name, (4,)) for name in DTYPES]
    assert [spec.name for spec in canonical_order(specs)] == list(DTYPES)[::-1]
    unknown = parse_header(with_info(dtype="X9").encode(), 4).tensors
    assert [t.dtype for t in canonical_order([*unknown, specs[0]])] == ["BOOL", "X9"]


def test_a_canonical_header_that_is_too_large(monkeypatch):
    header = canonical_header([Spec("a", "U8", ())], {})
    monkeypatch.setattr("wcodec.safetensors_file.MAX_HEADER_BYTES", len(header))
    assert canonical_header([Spec("a", "U8", ())], {}) == header
    with pytest.raises(LimitError, match=f"header is {len(header) + 8} bytes, safetensors allows"):
        canonical_header([Spec("a" * 9, "U8", ())], {})


def test_names_that_a_file_cannot_have():
    with pytest.raises(ValueError, match="no room for a tensor named '__metadata__'"):
        canonical_header([Spec("__metadata__", "U8", ())], {})
    with pytest.raises(ValueError, match="two tensors are named 'a'"):
        canonical_header([Spec("a", "U8", ()), Spec("a", "F32", ())], {})
