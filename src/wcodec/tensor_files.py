# SPDX-License-Identifier: Apache-2.0
"""Files of tensors, wcodec's and safetensors', read by tensor or by part of one; and the files of a
model in a directory.

A file is closed when nothing refers to it any more: handles, slices and lazy tensors share it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wcodec import inspection
from wcodec.checkpoint import check_model_index, model_files
from wcodec.codec import batch
from wcodec.container import Reader
from wcodec.container.source import Source
from wcodec.decode import as_array
from wcodec.errors import FormatError
from wcodec.limits import ReadLimits
from wcodec.memory import Budget
from wcodec.runs import decode_layers
from wcodec.safetensors_file import NamedTensor, SafetensorsFile, TensorEntry, parse_header
from wcodec.slices import Positions, decode_selection

_MAGIC = b"WCDC"

_Bytes = NDArray[np.uint8]


class TensorFile(Protocol):
    """What a handle and its slices need of a file. `n_blocks` counts the blocks decoded so far;
    `reader` is that of a wcodec file.
    """

    path: str
    entries: dict[str, NamedTensor]  # in the order of their data
    metadata: dict[str, str] | None
    n_blocks: int

    @property
    def reader(self) -> Reader | None: ...
    def count_blocks(self, n_blocks: int) -> None: ...
    def read(self, name: str) -> _Bytes: ...
    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, _Bytes]]: ...
    def read_selection(self, name: str, positions: Sequence[Positions]) -> _Bytes: ...
    def info(self, name: str) -> dict[str, Any]: ...
    def verify(self) -> dict[str, Any]: ...


class _Counted:
    def __init__(self) -> None:
        self.n_blocks = 0
        self._lock = threading.Lock()

    def count_blocks(self, n_blocks: int) -> None:
        with self._lock:
            self.n_blocks += n_blocks


class _WcodecFile(_Counted):
    def __init__(self, source: Source, budget: Budget, limits: ReadLimits | None) -> None:
        super().__init__()
        self.path = source if isinstance(source, str) else "bytes"
        self._budget = budget
        self._limits = limits
        self.reader = Reader(source, limits=limits)
        self.entries: dict[str, NamedTensor] = dict(self.reader.layers)
        metadata = self.reader.metadata
        self.metadata = dict(metadata.metadata) or None
        if metadata.source_header is not None:
            self.metadata = parse_header(metadata.source_header.encode("utf-8")).metadata

    def read(self, name: str) -> _Bytes:
        ((_, data),) = self.read_all([name])
        return data

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, _Bytes]]:
        """These tensors in order; small ones share memory."""
        entries = [self.reader.layers[name] for name in names]
        for entry, data in decode_layers(self.reader, entries, self._budget):
            self.count_blocks(self.reader.resolve(entry.name).n_blocks)
            yield entry.name, data

    def read_selection(self, name: str, positions: Sequence[Positions]) -> _Bytes:
        layer = self.reader.open_layer(self.reader.resolve(name).name)
        shape = self.entries[name].shape
        if layer.head.shape != shape:  # the same bytes under another shape
            data = as_array(self.read(name), layer.head.dtype, shape)
            return _part(data, positions)
        data, n_blocks = decode_selection(layer, positions, self._budget)
        self.count_blocks(n_blocks)
        return data

    def info(self, name: str) -> dict[str, Any]:
        return inspection.describe(self.reader.layers[name])

    def verify(self) -> dict[str, Any]:
        return inspection.verify(self.path, threads=self._budget.threads, limits=self._limits)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # if it could not be opened
            self.reader.close()


class _SafetensorsFile(_Counted):
    reader = None

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._file = SafetensorsFile(path)
        self._tensors = {tensor.name: tensor for tensor in self._file.tensors}
        self.entries: dict[str, NamedTensor] = dict(self._tensors)
        self.metadata = self._file.metadata

    def read(self, name: str) -> _Bytes:
        tensor = self._tensors[name]
        return self._read(tensor, 0, tensor.data_bytes)

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, _Bytes]]:
        for name in names:
            yield name, self.read(name)

    def read_selection(self, name: str, positions: Sequence[Positions]) -> _Bytes:
        """Reads the rows of the first axis that are needed, and what lies between them."""
        tensor = self._tensors[name]
        rows = positions[0]
        if not prod(len(places) for places in positions):
            return np.empty(0, np.uint8)
        first, last = int(rows[0]), int(rows[-1]) + 1
        row_bytes = tensor.data_bytes // tensor.shape[0]
        data = self._read(tensor, first * row_bytes, (last - first) * row_bytes)
        array = as_array(data, tensor.dtype, (last - first, *tensor.shape[1:]))
        return _part(array, [np.asarray(rows, dtype=np.int64) - first, *positions[1:]])

    def info(self, name: str) -> dict[str, Any]:
        tensor = self._tensors[name]
        n_weights = prod(tensor.shape)
        return {
            "name": name,
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "family": "raw",
            "data_bytes": tensor.data_bytes,
            "bytes": tensor.data_bytes,
            "bits_per_weight": 8 * tensor.data_bytes / n_weights if n_weights else None,
            "n_blocks": 0,
            "duplicate_of": None,
        }

    def verify(self) -> dict[str, Any]:
        """A safetensors file has no checksums; its header was checked when it was opened."""
        self._file.check_unchanged()
        return {
            "n_layers": len(self._tensors),
            "n_blocks": 0,
            "file_bytes": self._file.file_bytes,
            "data_bytes": self._file.data_bytes,
            "seconds": 0.0,
        }

    def _read(self, tensor: TensorEntry, start: int, size: int) -> _Bytes:
        data = batch.aligned_empty(size)
        self._file.read_into(tensor.start + start, data)
        return data

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self._file.close()


def _part(array: NDArray[Any], positions: Sequence[Positions]) -> _Bytes:
    """The bytes of these positions, in C order."""
    for axis, places in enumerate(positions):
        if isinstance(places, range):
            index: Any = slice(places.start, places.stop, places.step)
        else:
            index = places
        array = array[(slice(None),) * axis + (index,)]
    # Fresh memory, so that what is returned can be written to.
    return np.array(array, order="C", ndmin=1).reshape(-1).view(np.uint8)


def is_wcodec(data: bytes) -> bool:
    """Whether these are the first bytes of a wcodec file."""
    return data.startswith(_MAGIC)


def open_source(source: Source, budget: Budget) -> TensorFile:
    """Open a wcodec file that is anything which Reader reads."""
    return _WcodecFile(source, budget, None)


def open_file(path: str, budget: Budget, limits: ReadLimits | None = None) -> TensorFile:
    """Open a wcodec or a safetensors file, whichever its first bytes say."""
    with open(path, "rb") as file:
        begin = file.read(len(_MAGIC))
    if is_wcodec(begin):
        return _WcodecFile(path, budget, limits)
    try:
        return _SafetensorsFile(path)
    except FormatError as error:
        if path.endswith(".wcodec"):  # then its first bytes are damaged
            Reader(path, limits=limits).close()
        raise type(error)(f"Error while deserializing header: {error}") from None


class Checkpoint(NamedTuple):
    """The tensors of a file, or of all shards of a model: which file has each, in their order."""

    homes: dict[str, TensorFile]


def open_checkpoint(
    path: str | os.PathLike[str],
    budget: Budget,
    limits: ReadLimits | None = None,
    variant: str | None = None,
) -> Checkpoint:
    """Open a file, or the model of a directory, as checkpoint.model_files finds it.

    Raises FileNotFoundError for a directory without these, CorruptError where index and shards
    disagree, and what Reader raises.
    """
    path = os.fspath(path)
    if not os.path.isdir(path):
        if not os.path.exists(path):
            raise FileNotFoundError(f"No such file or directory: {path}")
        file = open_file(path, budget, limits)
        return Checkpoint(dict.fromkeys(file.entries, file))
    shards, index = model_files(path, variant)
    files = {shard: open_file(os.path.join(path, shard), budget, limits) for shard in shards}
    if index is not None:
        check_model_index(path, index, {shard: file.entries for shard, file in files.items()})
    return Checkpoint({name: file for file in files.values() for name in file.entries})
