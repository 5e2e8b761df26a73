# SPDX-License-Identifier: Apache-2.0
"""safetensors files: a strict reader, and the header that safetensors itself would write.

Accepted is what safetensors 0.8 accepts, except for duplicate keys (of which it takes the last),
white space before the header, tensors and dtypes in spellings that no writer uses (arrays for
objects), and plus dtypes that it does not know, which are bytes here. The header is validated as a
whole before a tensor is touched: the tensors fill the data part without gap or overlap. It is kept
verbatim, so that decoding restores a file byte for byte; parse_header() works from those bytes
alone.
"""

from __future__ import annotations

import gc
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from wcodec import strict_json
from wcodec.dtypes import DTYPES, MAX_U64, data_bits, overflows
from wcodec.errors import CorruptError, LimitError, TruncatedError
from wcodec.overlap import will_need

LENGTH_BYTES = 8  # the size of the header, before it
MAX_HEADER_BYTES = 100_000_000  # as in safetensors
HEADER_ALIGNMENT = 8
METADATA_KEY = "__metadata__"
# Of objects and arrays inside each other in the whole header, as in safetensors' JSON parser; only
# keys that no reader knows can nest at all.
MAX_DEPTH = 127

_KEYS = {"dtype", "shape", "data_offsets"}
_INTEGERS = {int}


class NamedTensor(Protocol):
    """What a header says about a tensor, apart from its place."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def data_bytes(self) -> int: ...


_T = TypeVar("_T", bound=NamedTensor)


class TensorEntry(NamedTuple):
    """A tensor in a header; its bytes are `start` to `end` of the data part, exclusive."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def data_bytes(self) -> int:
        return self.end - self.start


class SafetensorsHeader(NamedTuple):
    """A valid header: tensors by offset (those at the same offsets, which are empty, as written),
    the text map of the file or None, and the size of the data part in bytes.
    """

    tensors: list[TensorEntry]
    metadata: dict[str, str] | None
    data_bytes: int


class SafetensorsFile:
    """A safetensors file that is open for reading.

    `header` is its JSON verbatim, padding included; `tensors`, `metadata` and `data_bytes` are what
    it says; `file_bytes` is the size of the file. Use it as a context manager. read_into() may be
    called from several threads at once.

    Raises TruncatedError, CorruptError or LimitError for a file that is not valid, ValueError for a
    path that is not a regular file, OSError.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        # Looked at first: opening a FIFO would wait for its writer.
        if self._path.exists() and not self._path.is_file():
            raise ValueError(f"{self._path} is not a regular file")
        self._file = io.FileIO(self._path)
        try:
            status = os.fstat(self._file.fileno())
            self.file_bytes = status.st_size
            self._modified = status.st_mtime_ns
            self.header = self._read_header()
            self._data_offset = LENGTH_BYTES + len(self.header)
            data_bytes = self.file_bytes - self._data_offset
            parsed = parse_header(self.header, data_bytes, where=str(self._path))
        except BaseException:
            self.close()
            raise
        self.tensors = parsed.tensors
        self.metadata = parsed.metadata
        self.data_bytes = parsed.data_bytes

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read_into(self, start: int, out: NDArray[np.uint8]) -> None:
        """Fill `out`, contiguous, with the bytes of the data part from `start` on.

        Raises ValueError for bytes that it has not, TruncatedError if the file became shorter.
        """
        if not 0 <= start <= start + len(out) <= self.data_bytes:
            raise ValueError(
                f"bytes {start} to {start + len(out)} of {self.data_bytes} in {self._path}"
            )
        self._pread(self._data_offset + start, out.data)

    def will_need(self, start: int, size: int) -> None:
        """Say that these bytes of the data part, as far as there are so many, are read next."""
        will_need(self._file.fileno(), self._data_offset + start, size)

    def check_unchanged(self) -> None:
        """Raise CorruptError if the file was written to since it was opened: size or time."""
        status = os.fstat(self._file.fileno())
        if (status.st_size, status.st_mtime_ns) != (self.file_bytes, self._modified):
            raise CorruptError(
                f"{self._path}: changed while it was read: {status.st_size} bytes, "
                f"{self.file_bytes} at the beginning"
            )

    def _read_header(self) -> bytes:
        if self.file_bytes < LENGTH_BYTES:
            raise TruncatedError(
                f"{self._path}: {self.file_bytes} bytes, the size of its header takes 8"
            )
        length = bytearray(LENGTH_BYTES)
        self._pread(0, memoryview(length))
        n = header_bytes(bytes(length), where=str(self._path))
        if LENGTH_BYTES + n > self.file_bytes:
            raise TruncatedError(
                f"{self._path}: header of {n} bytes, the file has {self.file_bytes} in all"
            )
        header = bytearray(n)
        self._pread(LENGTH_BYTES, memoryview(header))
        return bytes(header)

    def _pread(self, offset: int, out: memoryview) -> None:
        done = 0
        while done < len(out):
            n = os.preadv(self._file.fileno(), [out[done:]], offset + done)
            if n == 0:
                raise TruncatedError(
                    f"{self._path}: {done} of {len(out)} bytes at offset {offset}, then it ends"
                )
            done += n


def header_bytes(length: bytes, where: str = "safetensors file") -> int:
    """Return the size of the header, from the 8 bytes before it; LimitError above safetensors' own
    limit of 100 MB.
    """
    n = int.from_bytes(length, "little")
    if n > MAX_HEADER_BYTES:
        raise LimitError(
            f"{where}: no safetensors file, or its header is too large: "
            f"{n} bytes, safetensors allows {MAX_HEADER_BYTES}"
        )
    return n


def parse_header(
    header: bytes, data_bytes: int | None = None, *, where: str = "safetensors file"
) -> SafetensorsHeader:
    """Return what a header says, all of it validated; with `data_bytes`, the size of the data part,
    the tensors must fill that.

    Raises CorruptError, TruncatedError if the data part is too short, LimitError; `where` begins
    the message.

    >>> parse_header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}').data_bytes
    8
    """
    where = f"{where}: header"
    if len(header) > MAX_HEADER_BYTES:
        raise LimitError(f"{where} is {len(header)} bytes, safetensors allows {MAX_HEADER_BYTES}")
    if not header.startswith(b"{"):
        raise CorruptError(f"{where} starts with {header[:1]!r}, expected b'{{'")
    with _paused_gc():
        value = strict_json.parse(header, where)
        metadata = _check_metadata(value.pop(METADATA_KEY, None), where)
        tensors = [_tensor(name, info, where) for name, info in value.items()]
        tensors.sort(key=_offsets)
    end = _check_cover(tensors, where)
    if data_bytes is not None and end != data_bytes:
        kind = TruncatedError if data_bytes < end else CorruptError
        raise kind(f"{where}: its tensors have {end} bytes, the file has {data_bytes} for them")
    return SafetensorsHeader(tensors, metadata, end)


@contextmanager
def _paused_gc() -> Iterator[None]:
    """Pause the search for reference cycles, of which a header makes none: with 100,000 tensors it
    takes half of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _InvalidError(Exception):
    """What is wrong with one tensor."""


def _offsets(tensor: TensorEntry) -> tuple[int, int]:
    return tensor.start, tensor.end


def _tensor(name: str, info: Any, where: str) -> TensorEntry:
    try:
        return _checked_tensor(name, info)
    except _InvalidError as error:
        raise CorruptError(f"{where}: tensor {name!r:.200}: {error}") from None


def _checked_tensor(name: str, info: Any) -> TensorEntry:
    if type(info) is not dict:
        raise _InvalidError(f"is {type(info).__name__}, expected an object")
    if info.keys() != _KEYS:
        _check_keys(info)
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if type(dtype) is not str:
        raise _InvalidError(f"dtype is {dtype!r:.80}, expected text")
    if not _are_sizes(shape):
        raise _InvalidError(f"shape is {shape!r:.80}, expected sizes below 2^64")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _InvalidError(f"data_offsets is {offsets!r:.80}, expected two sizes below 2^64")
    start, end = offsets
    if end < start:
        raise _InvalidError(f"data_offsets is {offsets}, which ends before it begins")
    _check_size(dtype, shape, end - start)
    return TensorEntry(name, dtype, tuple(shape), start, end)


def _are_sizes(value: Any) -> bool:
    if type(value) is not list or not set(map(type, value)) <= _INTEGERS:
        return False
    return not value or (min(value) >= 0 and max(value) <= MAX_U64)


def _check_keys(info: dict[str, Any]) -> None:
    missing = _KEYS - info.keys()
    if missing:
        raise _InvalidError(f"has no {' and no '.join(sorted(missing))}")
    for key in info.keys() - _KEYS:
        # The header, this tensor and the value itself.
        if _depth(info[key]) + 2 > MAX_DEPTH:
            raise _InvalidError(f"key {key!r:.80} nests deeper than {MAX_DEPTH}")


def _depth(value: Any) -> int:
    depth = 0
    level = [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [
            child for item in level for child in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def _check_size(dtype: str, shape: list[int], size: int) -> None:
    if overflows(dtype, shape):
        raise _InvalidError(f"size of shape {shape!r:.200} overflows 64 bits")
    n_bits = data_bits(dtype, shape)
    if n_bits is not None and n_bits != 8 * size:
        raise _InvalidError(f"data_offsets give it {size} bytes, {dtype} {shape} has {n_bits} bits")


def _check_metadata(metadata: Any, where: str) -> dict[str, str] | None:
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise CorruptError(f"{where}: {METADATA_KEY} is {type(metadata).__name__}, not an object")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise CorruptError(
                f"{where}: {METADATA_KEY} maps {key!r:.80} to {value!r:.80}, not text"
            )
    return metadata


def _check_cover(tensors: list[TensorEntry], where: str) -> int:
    """Return where the last tensor ends; CorruptError for a gap or an overlap before that."""
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            what = "overlap with the tensor before" if tensor.start < end else "leave a gap"
            raise CorruptError(
                f"{where}: tensor {tensor.name!r:.200}: data_offsets "
                f"[{tensor.start}, {tensor.end}] {what}, expected to begin at {end}"
            )
        end = tensor.end
    return end


_ORDER = {name: i for i, name in enumerate(DTYPES)}


def canonical_order(tensors: Iterable[_T]) -> list[_T]:
    """Return tensors as safetensors orders them: by its list of dtypes from the last to the first,
    then by name. Dtypes that it does not know come last.
    """
    return sorted(tensors, key=lambda tensor: (-_ORDER.get(tensor.dtype, -1), tensor.name))


def canonical_header(tensors: Iterable[NamedTensor], metadata: Mapping[str, str]) -> str:
    """Return the header that safetensors.serialize_file writes for these tensors.

    Their data follow each other in canonical_order(). Deviations: `metadata` is sorted by key,
    where safetensors takes the order of a hash map, which changes from run to run; and empty
    metadata is left out. Raises ValueError for a tensor named "__metadata__" or two of one name,
    LimitError if the header is too large for safetensors.
    """
    header: dict[str, Any] = {}
    if metadata:
        header[METADATA_KEY] = {key: metadata[key] for key in sorted(metadata)}
    names = {METADATA_KEY}
    start = 0
    for tensor in canonical_order(tensors):
        if tensor.name in names:
            _refuse_name(tensor.name)
        names.add(tensor.name)
        end = start + tensor.data_bytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"))
    size = len(text.encode("utf-8"))
    padding = -size % HEADER_ALIGNMENT
    if size + padding > MAX_HEADER_BYTES:
        raise LimitError(f"header is {size + padding} bytes, safetensors allows {MAX_HEADER_BYTES}")
    return text + " " * padding


def _refuse_name(name: str) -> NoReturn:
    if name == METADATA_KEY:
        raise ValueError(f"a safetensors file has no room for a tensor named {name!r}")
    raise ValueError(f"two tensors are named {name!r:.200}")
