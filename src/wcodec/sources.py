# SPDX-License-Identifier: Apache-2.0
"""What the encoder reads: tensors with a name, dtype and shape whose bytes can be read piece by
piece, and which of them are equal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wcodec.checksum import crc32
from wcodec.dtypes import dtype_name
from wcodec.safetensors_file import (
    METADATA_KEY,
    NamedTensor,
    SafetensorsFile,
    TensorEntry,
    canonical_order,
)
from wcodec.safetensors_stream import SafetensorsStream

PIECE_BYTES = 8 << 20
GLANCE_BYTES = 64 << 10
MIN_DUPLICATE_BYTES = 256  # a reference takes a record of 128 bytes or more itself


class Tensor(NamedTensor, Protocol):
    """One tensor of a source."""

    def read_into(self, start: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` with the tensor's bytes from `start` on."""
        ...

    def memory(self) -> NDArray[np.uint8] | None:
        """The tensor's bytes, read-only, if they lie in memory; others may write to them."""
        ...


class FileTensor:
    """A tensor of a safetensors file or stream."""

    def __init__(self, file: SafetensorsFile | SafetensorsStream, entry: TensorEntry) -> None:
        self._file = file
        self._start = entry.start
        self.name = entry.name
        self.dtype = entry.dtype
        self.shape = entry.shape
        self.data_bytes = entry.end - entry.start

    def read_into(self, start: int, out: NDArray[np.uint8]) -> None:
        self._file.read_into(self._start + start, out)
        if isinstance(self._file, SafetensorsFile):  # a window or a tensor like it comes next
            self._file.will_need(self._start + start + len(out), len(out))

    def memory(self) -> None:
        return None


class ArrayTensor:
    """A numpy array, in C order whatever its memory layout; `dtype` and `shape` may name a packed
    sub-byte type.
    """

    def __init__(
        self,
        name: str,
        array: NDArray[np.generic],
        dtype: str | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"tensor {name!r} is {type(array).__name__}, expected a numpy array")
        self.name = name
        self.dtype = dtype_name(array.dtype) if dtype is None else dtype
        self.shape = array.shape if shape is None else shape
        self.data_bytes = array.nbytes
        self._array = array

    def read_into(self, start: int, out: NDArray[np.uint8]) -> None:
        out[:] = self.memory()[start : start + len(out)]

    def memory(self) -> NDArray[np.uint8]:
        if not self._array.flags.c_contiguous:
            self._array = np.ascontiguousarray(self._array)
        data = self._array.reshape(-1).view(np.uint8)
        data.flags.writeable = False
        return data


class Source(NamedTuple):
    """What is to be encoded: `tensors` in order, to be gone through once unless `again`; `header`
    of the safetensors file and its size, if it is one; the size of all data, 0 while nobody knows.

    `ahead`: another thread may read one tensor while the caller's is at another. `check_end` raises
    if the source turns out to be wrong once all of it was read.
    """

    tensors: Iterable[Tensor]
    header: str | None = None
    file_bytes: int = 0
    data_bytes: int = 0
    again: bool = False
    ahead: bool = False
    check_end: Callable[[], None] = lambda: None


@contextmanager
def open_source(input: Any) -> Iterator[Source]:
    """Give the Source of the path of a safetensors file, a binary file object that holds one and is
    read once, a dict of arrays, or an iterable of (name, array).

    Raises FormatError for a file that is not valid, OSError, TypeError for anything else.
    """
    if isinstance(input, (str, os.PathLike)):
        with SafetensorsFile(input) as file:
            yield _file_source(file, file.check_unchanged)._replace(again=True, ahead=True)
    elif hasattr(input, "read"):
        stream = SafetensorsStream(input)
        yield _file_source(stream, stream.check_end)
    elif isinstance(input, Mapping):
        yield tensor_source(canonical_order(map(_array_tensor, input.items())))
    elif isinstance(input, Iterable):
        yield Source(map(_array_tensor, input))
    else:
        raise TypeError(
            f"input is {type(input).__name__}, expected a path, a file, a dict of arrays or an "
            "iterable of (name, array)"
        )


def tensor_source(tensors: Sequence[Tensor]) -> Source:
    """The Source of tensors in memory."""
    return Source(tensors, data_bytes=sum(tensor.data_bytes for tensor in tensors), again=True)


def _file_source(
    file: SafetensorsFile | SafetensorsStream, check_end: Callable[[], None]
) -> Source:
    return Source(
        [FileTensor(file, entry) for entry in file.tensors],
        file.header.decode("utf-8"),
        file.file_bytes,
        file.data_bytes,
        check_end=check_end,
    )


def _array_tensor(item: tuple[str, Any]) -> Tensor:
    name, array = item
    if name == METADATA_KEY:
        raise ValueError(f"a safetensors file has no room for a tensor {METADATA_KEY!r}")
    tensor: Tensor = array if hasattr(array, "read_into") else ArrayTensor(name, array)
    return tensor


def find_duplicates(tensors: Sequence[Tensor]) -> dict[str, str]:
    """Map the name of each tensor whose bytes an earlier one has already to the name of the first
    such tensor.

    Tensors of equal size are compared by a CRC of their first bytes, then by a 128-bit hash of all
    (BLAKE2b), then byte by byte, so most tensors are hardly read.
    """
    duplicates: dict[str, str] = {}
    for same_size in _grouped(tensors, lambda tensor: tensor.data_bytes):
        if same_size[0].data_bytes < MIN_DUPLICATE_BYTES:
            continue
        for same_start in _grouped(same_size, _crc_of_start):
            for same_hash in _grouped(same_start, _hash):
                first = same_hash[0]
                for other in same_hash[1:]:
                    if _equal(first, other):
                        duplicates[other.name] = first.name
    return duplicates


def pieces(tensor: Tensor, end: int | None = None) -> Iterator[NDArray[np.uint8]]:
    """Yield the bytes of a tensor up to `end` in pieces; each is valid until the next."""
    end = tensor.data_bytes if end is None else min(end, tensor.data_bytes)
    memory = np.empty(min(PIECE_BYTES, end), dtype=np.uint8)
    for start in range(0, end, PIECE_BYTES):
        piece = memory[: min(PIECE_BYTES, end - start)]
        tensor.read_into(start, piece)
        yield piece


def _grouped(tensors: Sequence[Tensor], key: Callable[[Tensor], object]) -> list[list[Tensor]]:
    """Groups of at least two tensors with the same key, each in the order given."""
    groups: dict[object, list[Tensor]] = {}
    if len(tensors) > 1:
        for tensor in tensors:
            groups.setdefault(key(tensor), []).append(tensor)
    return [group for group in groups.values() if len(group) > 1]


def _crc_of_start(tensor: Tensor) -> int:
    return crc32(next(pieces(tensor, GLANCE_BYTES)))


def _hash(tensor: Tensor) -> bytes:
    import hashlib

    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces(tensor):
        digest.update(piece.data)
    return digest.digest()


def _equal(a: Tensor, b: Tensor) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(pieces(a), pieces(b), strict=True))
