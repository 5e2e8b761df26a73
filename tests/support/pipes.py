# SPDX-License-Identifier: Apache-2.0
"""Streams that only go forward."""

from __future__ import annotations

import io


class Pipe:
    """Bytes that can only be read, and only a few at a time."""

    def __init__(self, data: bytes, at_once: int = 1000) -> None:
        self._file = io.BytesIO(data)
        self._at_once = at_once

    def read(self, n: int) -> bytes:
        return self._file.read(min(n, self._at_once))


class Sink:
    """Collects what is written; can neither seek nor tell, and takes part of large writes."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        taken = bytes(data[:100_000])
        self.data += taken
        return len(taken)
