# SPDX-License-Identifier: Apache-2.0
"""Looking at a file: what is in it (header and index only), and whether all of it is sound."""

from __future__ import annotations

import os
import time
from math import prod
from typing import Any

from wcodec.codec import batch
from wcodec.container import KIND_REFERENCE, IndexEntry, Reader
from wcodec.decode import Path, write_safetensors
from wcodec.dtypes import bits
from wcodec.limits import ReadLimits
from wcodec.progress import Progress


def info(path: Path, *, limits: ReadLimits | None = None) -> dict[str, Any]:
    """Describe a wcodec file without reading its layers.

    Returns `path`, `format_version`, `wcodec_version`, `model_name`, `metadata`, `options`,
    `source` ("safetensors" or None), `file_bytes`, `data_bytes` (decoded), `compression_ratio` (of
    these two), `n_layers`, and `layers`: a dict each with `name`, `dtype`, `shape`, `family` (the
    coding of its blocks beside raw and constant), `data_bytes`, `bytes`, `bits_per_weight` (None
    without weights), `n_blocks`, `duplicate_of` (the layer whose bytes it shares, or None).

    Raises what decode_checkpoint raises.
    """
    with Reader(path, limits=limits or ReadLimits()) as reader:
        metadata = reader.metadata
        layers = [_describe(entry) for entry in reader.layers.values()]
        data_bytes = sum(layer["data_bytes"] for layer in layers)
        return {
            "path": os.fspath(path),
            "format_version": reader.format_version,
            "wcodec_version": metadata.wcodec_version,
            "model_name": metadata.model_name,
            "metadata": dict(metadata.metadata),
            "options": dict(metadata.options),
            "source": None if metadata.source_header is None else "safetensors",
            "file_bytes": reader.file_bytes,
            "data_bytes": data_bytes,
            "compression_ratio": data_bytes / reader.file_bytes,
            "n_layers": len(layers),
            "layers": layers,
        }


def _describe(entry: IndexEntry) -> dict[str, Any]:
    n_weights = prod(entry.shape) if bits(entry.dtype) else entry.data_bytes
    reference = entry.kind == KIND_REFERENCE
    return {
        "name": entry.name,
        "dtype": entry.dtype,
        "shape": list(entry.shape),
        "family": "reference" if reference else batch.CODING_NAMES[entry.family],
        "data_bytes": entry.data_bytes,
        "bytes": entry.record_bytes,
        "bits_per_weight": 8 * entry.record_bytes / n_weights if n_weights else None,
        "n_blocks": entry.n_blocks,
        "duplicate_of": entry.target if reference else None,
    }


class _Nowhere:
    def write(self, data: Any) -> None:
        pass


def verify(
    path: Path,
    *,
    threads: int | None = None,
    limits: ReadLimits | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Decode everything in a wcodec file, check every checksum, and keep nothing.

    Returns `n_layers`, `n_blocks`, `file_bytes`, `data_bytes`, `seconds`. Raises what
    decode_checkpoint raises for the first thing that is wrong.
    """
    started = time.perf_counter()
    with Reader(path, limits=limits or ReadLimits()) as reader:
        write_safetensors(reader, _Nowhere(), batch.thread_count(threads), progress)
        reader.check_file()
        return {
            "n_layers": len(reader.layers),
            "n_blocks": sum(entry.n_blocks for entry in reader.layers.values()),
            "file_bytes": reader.file_bytes,
            "data_bytes": sum(entry.data_bytes for entry in reader.layers.values()),
            "seconds": time.perf_counter() - started,
        }
