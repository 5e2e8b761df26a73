# SPDX-License-Identifier: Apache-2.0
"""JSON that Python would accept and RFC 8259 does not, or that no two readers agree on."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wcodec.errors import CorruptError
from wcodec.strict_json import parse


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a":1,"a":1}', "key 'a' occurs twice"),
        ('{"b":{"a":1,"c":2,"\\u0061":1}}', "key 'a' occurs twice"),
        ("[NaN]", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("[1e999]", "1e999 is out of range"),
        ("[" + "9" * 309 + "]", "out of range"),
        ("[-" + "9" * 5000 + "]", "out of range"),
        ('["\\ud800"]', "lone surrogate"),
        ('["\\uDFFF"]', "lone surrogate"),
        ('{"\\udc00":1}', "lone surrogate"),
        ('["\x01"]', "Invalid control character"),
        ("[1] x", "Extra data"),
        ("[01]", "not valid JSON"),
        ("\ufeff[]", "not valid JSON"),
        ("", "not valid JSON"),
    ],
)
def test_refused(text, message):
    with pytest.raises(CorruptError, match=f"^file: .*{message}"):
        parse(text.encode("utf-8", "surrogatepass"), "file")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_deep_nesting_is_an_error_and_no_crash(text):
    with pytest.raises(CorruptError, match=r"nested too deeply|not valid JSON"):
        parse(text.encode(), "file")


def test_not_utf8():
    with pytest.raises(CorruptError, match="file: not UTF-8 at byte 2"):
        parse(b'["\xff"]', "file")


def test_accepted():
    assert parse(b' {"a":[1,-2,3.5,true,null],"\\ud83d\\ude00":"\xc3\xa9"}\n', "file") == {
        "a": [1, -2, 3.5, True, None],
        "😀": "é",
    }


def test_minus_zero_is_no_integer():
    (value,) = parse(b"[-0]", "file")
    assert type(value) is float
    (value,) = parse(b"[-01.5e0]".replace(b"01", b"1"), "file")
    assert value == -1.5
    assert parse(b'["-0",-10,0]', "file") == ["-0", -10, 0]


def test_the_largest_integers():
    largest = int(1.7976931348623157e308)
    assert parse(f'[{largest},{-largest},1,"{"9" * 400}"]'.encode(), "file") == [
        largest,
        -largest,
        1,
        "9" * 400,
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children),
)  # fmt: skip


@settings(deadline=None)
@given(VALUES, st.booleans())
def test_what_json_dumps_comes_back(value, ascii_only):
    assert parse(json.dumps(value, ensure_ascii=ascii_only).encode(), "file") == value
