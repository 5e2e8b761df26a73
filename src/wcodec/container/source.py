# SPDX-License-Identifier: Apache-2.0
"""Where a Reader reads: a path, a seekable file object, or an object with size() and read_ranges().

All three become an Input: size, read, read_many, read_into. Local files are read with pread, which
many threads may do at once; a file object with one position is read under a lock. An Input that
gives fewer bytes than its size promised raises TruncatedError.
"""

from __future__ import annotations

import abc
import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol, TypeAlias, runtime_checkable

import numpy as np

from wcodec.checksum import Buffer
from wcodec.container.blocks import Bytes
from wcodec.errors import TruncatedError
from wcodec.overlap import will_need


@runtime_checkable
class RangeSource(Protocol):
    """What a remote file must offer to be read."""

    def size(self) -> int:
        """Return the size of the file in bytes."""

    def read_ranges(self, ranges: list[tuple[int, int]]) -> Sequence[Buffer]:
        """Return the bytes of each range (offset, size), in order; called from several threads at
        once.
        """


Source: TypeAlias = str | bytes | os.PathLike[str] | IO[bytes] | RangeSource


class Input(abc.ABC):
    """A file of `size` bytes that can be read at any offset."""

    size: int

    @abc.abstractmethod
    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `offset` on."""

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on."""
        out = bytearray(size)
        self.read_into(offset, memoryview(out))
        return bytes(out)

    def read_many(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each range (offset, size), in one request where the source can."""
        return [self.read(offset, size) for offset, size in ranges]

    def shared(self, offset: int, size: int) -> Bytes | None:
        """Return these bytes where they lie, if that is in memory which nobody can change."""
        return None

    def will_need(self, offset: int, size: int) -> None:  # noqa: B027  # a hint
        """Say that these bytes are read next, as far as there are so many."""

    def close(self) -> None:  # noqa: B027  # most inputs own nothing
        """Release what this Input opened itself."""


class BytesInput(Input):
    """The bytes of a file in memory."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data).cast("B")
        self.size = len(self._data)

    def read_into(self, offset: int, out: memoryview) -> None:
        out[:] = self._range(offset, len(out))

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._range(offset, size))

    def shared(self, offset: int, size: int) -> Bytes | None:
        # A view of other objects can be read-only while they are changed.
        if not isinstance(self._data.obj, bytes) or offset + size > self.size:
            return None
        return np.frombuffer(self._data, np.uint8, size, offset)

    def _range(self, offset: int, size: int) -> memoryview:
        found = self._data[offset : offset + size]
        if len(found) < size:
            _raise_short(offset, size, len(found))
        return found


class _PreadInput(Input):
    """A regular file, read at offsets without a position."""

    def __init__(self, file: io.FileIO, *, owned: bool) -> None:
        self._file = file
        self._owned = owned
        self.size = os.fstat(file.fileno()).st_size

    def read_into(self, offset: int, out: memoryview) -> None:
        descriptor = self._file.fileno()
        done = 0
        while done < len(out):
            n = os.preadv(descriptor, [out[done:]], offset + done)
            if n == 0:
                _raise_short(offset, len(out), done)
            done += n

    def will_need(self, offset: int, size: int) -> None:
        will_need(self._file.fileno(), offset, size)

    def close(self) -> None:
        if self._owned:
            self._file.close()


class _SeekInput(Input):
    """A file object with one position, which a lock guards."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.size = file.seek(0, io.SEEK_END)

    def read_into(self, offset: int, out: memoryview) -> None:
        with self._lock:
            self._file.seek(offset)
            done = 0
            while done < len(out):
                piece = self._file.read(len(out) - done)
                if not piece:
                    _raise_short(offset, len(out), done)
                out[done : done + len(piece)] = piece
                done += len(piece)


class _RangesInput(Input):
    """An object of the caller's with size() and read_ranges()."""

    def __init__(self, source: RangeSource) -> None:
        self._source = source
        self.size = source.size()

    def read_into(self, offset: int, out: memoryview) -> None:
        (data,) = self._read_ranges([(offset, len(out))])
        out[:] = data

    def read_many(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        return [bytes(data) for data in self._read_ranges(ranges)]

    def _read_ranges(self, ranges: list[tuple[int, int]]) -> list[memoryview]:
        found = self._source.read_ranges(ranges)
        views = [np.frombuffer(data, np.uint8).data for data in found]
        if len(views) != len(ranges):
            raise ValueError(f"read_ranges returned {len(views)} ranges, asked for {len(ranges)}")
        for (offset, size), view in zip(ranges, views, strict=True):
            if len(view) > size:
                raise ValueError(f"read_ranges returned {len(view)} bytes, asked for {size}")
            if len(view) < size:
                _raise_short(offset, size, len(view))
        return views


def _raise_short(offset: int, size: int, done: int) -> None:
    raise TruncatedError(f"file: {done} of {size} bytes at offset {offset}, then it ends")


def open_input(source: Source | Input) -> Input:
    """Return the Input of a path, a binary seekable file object or a RangeSource, or `source` if it
    is one.

    Raises ValueError for a path that is not a regular file (a pipe is read by SequentialReader),
    TypeError for what is no source, and OSError.
    """
    if isinstance(source, Input):
        return source
    if isinstance(source, str | bytes | os.PathLike):
        return _open_path(Path(os.fsdecode(source)))
    if isinstance(source, RangeSource):
        return _RangesInput(source)
    # Only of these is it sure that the descriptor has the bytes that the object gives: a gzip file
    # has one, too.
    if isinstance(source, io.BufferedRandom):
        source.flush()
    raw = source.raw if isinstance(source, io.BufferedReader | io.BufferedRandom) else source
    if isinstance(raw, io.FileIO) and raw.readable() and raw.seekable():
        return _PreadInput(raw, owned=False)
    if hasattr(source, "seek") and hasattr(source, "read"):
        return _SeekInput(source)
    raise TypeError(f"{source!r} is not a path, a seekable binary file or a source of ranges")


def _open_path(path: Path) -> Input:
    # Looked at first: opening a FIFO would wait for its writer.
    if not path.is_file() and path.exists():
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a directory")
        raise ValueError(f"{path} is not a regular file; read it as a stream")
    file = io.FileIO(path)
    try:
        return _PreadInput(file, owned=True)
    except BaseException:
        file.close()
        raise
