# SPDX-License-Identifier: Apache-2.0
"""A safetensors file that comes through a pipe: its header, then its tensors in the order of their
data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wcodec.errors import CorruptError, TruncatedError
from wcodec.safetensors_file import LENGTH_BYTES, header_bytes, parse_header

PIECE_BYTES = 1 << 20
_WHERE = "safetensors stream"


class SafetensorsStream:
    """Reads a safetensors file from `stream`, any object with read(n); short reads are fine.

    `header`, `tensors`, `metadata`, `data_bytes` and `file_bytes` are as in SafetensorsFile, but
    the data can be read once only, front to back. Raises TruncatedError, CorruptError and
    LimitError, and what stream.read raises.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        n = header_bytes(self._read(LENGTH_BYTES), where=_WHERE)
        self.header = self._read(n)
        parsed = parse_header(self.header, where=_WHERE)
        self.tensors = parsed.tensors
        self.metadata = parsed.metadata
        self.data_bytes = parsed.data_bytes
        self.file_bytes = LENGTH_BYTES + n + self.data_bytes
        self._position = 0  # in the data part

    def read_into(self, start: int, out: NDArray[np.uint8]) -> None:
        """Fill `out`, contiguous, with the bytes of the data part from `start` on, which must be
        the next ones.

        Raises ValueError for others, TruncatedError if the stream ends.
        """
        if start != self._position or start + len(out) > self.data_bytes:
            raise ValueError(
                f"bytes {start} to {start + len(out)}, at {self._position} of a stream"
            )
        view = out.data
        done = 0
        while done < len(view):
            piece = self._read_some(len(view) - done)
            if not piece:
                raise TruncatedError(
                    f"{_WHERE}: ends at byte {start + done} of its data, which has "
                    f"{self.data_bytes}"
                )
            view[done : done + len(piece)] = piece
            done += len(piece)
        self._position += done

    def check_end(self) -> None:
        """Raise CorruptError if the stream goes on behind the last tensor."""
        if self._read_some(1):
            raise CorruptError(f"{_WHERE}: goes on after {self.file_bytes} bytes, its declared end")

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._read_some(size - len(data))
            if not piece:
                raise TruncatedError(
                    f"{_WHERE}: ends after {len(data)} of {size} bytes of its header"
                )
            data += piece
        return bytes(data)

    def _read_some(self, size: int) -> bytes:
        piece = self._stream.read(min(size, PIECE_BYTES))
        if piece is None:
            raise BlockingIOError("the stream is non-blocking and has no bytes yet")
        if len(piece) > size:
            raise OSError(f"read({size}) of the stream returned {len(piece)} bytes")
        return bytes(piece)
