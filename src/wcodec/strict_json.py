# SPDX-License-Identifier: Apache-2.0
"""JSON as RFC 8259 says, and no more: what Python's own parser lets pass beyond that is refused.

Refused are duplicate keys, NaN and Infinity, numbers beyond a double, lone surrogates (text that
UTF-8 cannot hold), and nesting that exhausts the stack. Used for files, so every refusal is a
CorruptError.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn

from wcodec.errors import CorruptError


class _RefusedError(ValueError):
    """What a hook of the parser refuses."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        name = next(key for key, count in counts.items() if count > 1)
        raise _RefusedError(f"key {name!r} occurs twice in one object")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise _RefusedError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _RefusedError(f"number {text[:32]} is out of range")
    return value


def _integer(text: str) -> int | float:
    # Minus zero is no integer: as a float it fails the reader's own check for one.
    if text == "-0":
        return -0.0
    _finite(text)
    return int(text)


_FAST = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
)
_CAREFUL = json.JSONDecoder(
    object_pairs_hook=_unique,
    parse_constant=_refuse_constant,
    parse_float=_finite,
    parse_int=_integer,
)
_LONG_NUMBER = b"0" * 309  # digits of the smallest integer beyond a double
_DIGITS = bytes(ord("0") if chr(byte).isdecimal() else 0 for byte in range(128)) + bytes(128)


def parse(data: bytes, where: str) -> Any:
    """Return the value of one JSON text in UTF-8; `where` begins the message of the CorruptError it
    may raise.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptError(f"{where}: not UTF-8 at byte {error.start}") from error
    # A call for each integer costs a third of the parse, so it is made only where one may be odd.
    is_odd = "-0" in text or _LONG_NUMBER in data.translate(_DIGITS)
    decoder = _CAREFUL if is_odd else _FAST
    try:
        value = decoder.decode(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorruptError(f"{where}: text holds a lone surrogate, which is not UTF-8") from error
    except RecursionError as error:
        raise CorruptError(f"{where}: nested too deeply") from error
    except ValueError as error:
        raise CorruptError(f"{where}: not valid JSON: {error}") from error
    return value
