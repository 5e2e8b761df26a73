# SPDX-License-Identifier: Apache-2.0
"""Load and save dicts of numpy arrays, like safetensors.numpy; bfloat16 and fp8 are ml_dtypes."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

import safetensors.numpy
from numpy.typing import NDArray

from wcodec.codec import batch
from wcodec.decode import as_array, decode_budget
from wcodec.encode import encode_checkpoint
from wcodec.handle import safe_open
from wcodec.tensor_files import is_wcodec, open_source

Path = str | os.PathLike[str]


def load_file(filename: Path, *, threads: int | None = None) -> dict[str, NDArray[Any]]:
    """Load all arrays of a wcodec or safetensors file. Raises what safe_open raises."""
    with safe_open(filename, framework="np", threads=threads) as file:
        return file.get_tensors()


def load(data: bytes, *, threads: int | None = None) -> dict[str, NDArray[Any]]:
    """Load all arrays of the bytes of a wcodec or safetensors file."""
    if not is_wcodec(data):
        return safetensors.numpy.load(data)
    file = open_source(io.BytesIO(data), decode_budget(threads))
    return {
        name: as_array(data, file.entries[name].dtype, file.entries[name].shape)
        for name, data in file.read_all(file.entries)
    }


def save_file(
    tensor_dict: Mapping[str, NDArray[Any]],
    filename: Path,
    metadata: Mapping[str, str] | None = None,
    *,
    level: str = "default",
    threads: int | None = None,
) -> None:
    """Save arrays as a wcodec file. Raises what encode_checkpoint raises."""
    encode_checkpoint(
        dict(tensor_dict), os.fspath(filename), metadata=metadata, level=level, threads=threads
    )


def save(
    tensor_dict: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str] | None = None,
    *,
    level: str = "default",
    threads: int | None = None,
) -> bytes:
    """Return the bytes of the file that save_file writes."""
    arrays = dict(tensor_dict)
    file = batch.bytes_file(sum(getattr(array, "nbytes", 0) for array in arrays.values()))
    encode_checkpoint(
        arrays, file, metadata=metadata, level=level, threads=threads, duplicates=True
    )
    file.truncate()
    return file.getvalue()
