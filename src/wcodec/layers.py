# SPDX-License-Identifier: Apache-2.0
"""The layers of a wcodec file, or of all shards of a wcodec directory, by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wcodec.checkpoint import join, plan_decode
from wcodec.container import IndexEntry, Reader
from wcodec.decode import Path, as_array, decode_budget
from wcodec.limits import ReadLimits
from wcodec.windows import decode_windows


class Layers:
    """Opens a file, or all shards of a directory.

    `files` maps their paths to Readers; `readers` and `homes` map the name of each layer to the
    Reader and to the path of its file, in the order of files and layers.

    Raises ValueError for a name that two shards have (other components or variants of a model; name
    one of the files then), and what decode_checkpoint raises.
    """

    def __init__(self, path: Path, limits: ReadLimits | None = None) -> None:
        self.path = os.fspath(path)
        self._stack = ExitStack()
        paths = [self.path]
        if os.path.isdir(path):
            plan = plan_decode(self.path, limits)
            paths = [join(self.path, item.source) for item in plan.shards]
        homes: dict[str, str] = {}
        readers: dict[str, Reader] = {}
        files: dict[str, Reader] = {}
        try:
            for file in paths:
                reader = self._stack.enter_context(Reader(file, limits=limits))
                files[file] = reader
                for name in reader.layers:
                    if name in homes:
                        raise ValueError(
                            f"layer {name!r:.200} is in {homes[name]} and in {file}; name one of "
                            "the files"
                        )
                    homes[name], readers[name] = file, reader
        except BaseException:
            self._stack.close()
            raise
        self.readers: Mapping[str, Reader] = MappingProxyType(readers)
        self.homes: Mapping[str, str] = MappingProxyType(homes)
        self.files: Mapping[str, Reader] = MappingProxyType(files)

    def __enter__(self) -> Layers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def find(self, name: str) -> tuple[Reader, IndexEntry]:
        """The Reader and the index entry of a layer. Raises KeyError if there is none."""
        if name not in self.readers:
            raise KeyError(f"{self.path}: has no layer {name!r:.200}")
        reader = self.readers[name]
        return reader, reader.layers[name]


def decode_layer(path: Path, name: str, *, threads: int | None = None) -> NDArray[Any]:
    """Decode one layer of a wcodec file or directory, reading no other; the arrays are those of
    decode_checkpoint.

    Raises KeyError if there is no such layer, and what decode_checkpoint raises.
    """
    with Layers(path) as layers:
        reader, entry = layers.find(name)
        return as_array(bytes_of(reader, entry, threads), entry.dtype, entry.shape)


def bytes_of(reader: Reader, entry: IndexEntry, threads: int | None) -> NDArray[np.uint8]:
    """The decoded bytes of a layer."""
    data = np.empty(entry.data_bytes, dtype=np.uint8)
    layer = reader.open_layer(reader.resolve(entry.name).name)
    for _ in decode_windows(layer, decode_budget(threads), data):
        pass
    return data
