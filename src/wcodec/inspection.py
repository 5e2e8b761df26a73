# SPDX-License-Identifier: Apache-2.0
"""Looking at a file: what is in it (header and index only), and whether all of it is sound."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from math import prod
from typing import Any

from wcodec.checkpoint import CheckpointPlan, join, plan_decode
from wcodec.codec import batch
from wcodec.container import KIND_REFERENCE, IndexEntry, Reader
from wcodec.decode import DecodeOptions, Path, decode_budget, write_safetensors
from wcodec.dtypes import bits
from wcodec.errors import PartialError, WcodecError
from wcodec.limits import ReadLimits
from wcodec.progress import Counter, Progress, watching


def info(path: Path, *, codings: bool = False, limits: ReadLimits | None = None) -> dict[str, Any]:
    """Describe a wcodec file or directory without reading its layers, but for `codings`.

    Returns `path`, `format_version`, `wcodec_version`, `model_name`, `metadata`, `options`,
    `source` ("safetensors" or None), `file_bytes`, `data_bytes` (decoded), `compression_ratio` (of
    these two), `n_layers`, and `layers`: a dict each with `name`, `dtype`, `shape`, `family` (the
    coding of its blocks beside raw and constant), `data_bytes`, `bytes`, `bits_per_weight` (None
    without weights), `n_blocks`, `duplicate_of` (the layer whose bytes it shares, or None).
    `dtypes` sums up the layers of each dtype: `dtype`, `n_layers`, `n_weights`, `data_bytes`,
    `bytes`, `bits_per_weight`.

    With `codings` a layer also has `blocks`, a dict each coding and form of its blocks: `coding`,
    `form`, `n_blocks` and `bytes`; and `estimates`, a dict each coding, the smallest first:
    `coding` and `bytes`. An estimate is what the encoder makes of half a MiB of the layer, at the
    file's level, for the size of the layer; it is what codings are chosen by, but for what the
    level does not try. The first 32 MiB or so of each layer are decoded for that.

    Of a directory: `path`, `file_bytes`, `data_bytes`, `compression_ratio`, `n_layers` and `dtypes`
    of all its shards, and `files`, what was said above about each.

    Raises what decode_checkpoint raises.
    """
    if os.path.isdir(path):
        return _directory_info(os.fspath(path), codings, limits)
    with Reader(path, limits=limits or ReadLimits()) as reader:
        metadata = reader.metadata
        layers = [describe(entry) for entry in reader.layers.values()]
        if codings:
            from wcodec.codings import codings_of

            for layer in layers:
                layer |= codings_of(reader, layer["name"])
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
            "dtypes": _totals(layers),
            "layers": layers,
        }


def _directory_info(path: str, codings: bool, limits: ReadLimits | None) -> dict[str, Any]:
    plan = _sound_plan(path, limits)
    files = [info(join(path, item.source), codings=codings, limits=limits) for item in plan.shards]
    file_bytes = sum(file["file_bytes"] for file in files)
    data_bytes = sum(file["data_bytes"] for file in files)
    return {
        "path": path,
        "file_bytes": file_bytes,
        "data_bytes": data_bytes,
        "compression_ratio": data_bytes / file_bytes,
        "n_layers": sum(file["n_layers"] for file in files),
        "dtypes": _totals([layer for file in files for layer in file["layers"]]),
        "files": files,
    }


def _totals(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sums of each dtype, the largest first."""
    totals: dict[str, dict[str, Any]] = {}
    for layer in layers:
        total = totals.setdefault(
            layer["dtype"],
            {"dtype": layer["dtype"], "n_layers": 0, "n_weights": 0, "data_bytes": 0, "bytes": 0},
        )
        total["n_layers"] += 1
        total["n_weights"] += _n_weights(layer["dtype"], layer["shape"], layer["data_bytes"])
        total["data_bytes"] += layer["data_bytes"]
        total["bytes"] += layer["bytes"]
    for total in totals.values():
        n_weights = total["n_weights"]
        total["bits_per_weight"] = 8 * total["bytes"] / n_weights if n_weights else None
    return sorted(totals.values(), key=lambda total: -total["bytes"])


def _n_weights(dtype: str, shape: Sequence[int], data_bytes: int) -> int:
    return prod(shape) if bits(dtype) else data_bytes


def _sound_plan(path: str, limits: ReadLimits | None) -> CheckpointPlan:
    """The plan of a wcodec directory; PartialError if some of its shards cannot be opened."""
    plan = plan_decode(path, limits)
    if plan.broken:
        failures = {join(path, shard): error for shard, error in plan.broken.items()}
        raise PartialError(failures, len(plan.shards) - len(failures))
    return plan


def describe(entry: IndexEntry) -> dict[str, Any]:
    """What info() says about one layer."""
    n_weights = _n_weights(entry.dtype, entry.shape, entry.data_bytes)
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
    fast: bool = False,
    threads: int | None = None,
    limits: ReadLimits | None = None,
    progress: Progress | type | None = None,
) -> dict[str, Any]:
    """Decode everything in a wcodec file or directory, check every checksum, and keep nothing; with
    `fast` check the checksums only.

    Returns `n_layers`, `n_blocks`, `file_bytes`, `data_bytes`, `seconds`. Raises what
    decode_checkpoint raises for the first thing that is wrong in a file; find_damage names all. Of
    a directory, its index is checked against the shards, the numbers are sums, `n_files` counts the
    shards, and PartialError names all of them that are damaged.
    """
    started = time.perf_counter()
    options = DecodeOptions(decode_budget(threads), limits or ReadLimits())
    with watching(progress) as watch:
        if os.path.isdir(path):
            found = _verify_directory(os.fspath(path), fast, options, watch)
        else:
            found = _verify_file(path, fast, options, watch)
    return {**found, "seconds": time.perf_counter() - started}


def _verify_file(
    path: Path, fast: bool, options: DecodeOptions, progress: Progress | None
) -> dict[str, Any]:
    with Reader(path, limits=options.limits) as reader:
        if not fast:
            write_safetensors(reader, _Nowhere(), options, progress)
        reader.check_file()
        return {
            "n_layers": len(reader.layers),
            "n_blocks": sum(entry.n_blocks for entry in reader.layers.values()),
            "file_bytes": reader.file_bytes,
            "data_bytes": sum(entry.data_bytes for entry in reader.layers.values()),
        }


def _verify_directory(
    path: str, fast: bool, options: DecodeOptions, progress: Progress | None
) -> dict[str, Any]:
    plan = plan_decode(path, options.limits)
    counter = Counter(progress, sum(item.n_bytes for item in plan.shards))
    failures: dict[str, Exception] = {}
    found = {"n_files": 0, "n_layers": 0, "n_blocks": 0, "file_bytes": 0, "data_bytes": 0}
    for item in plan.shards:
        shard = join(path, item.source)
        try:
            row = _verify_file(shard, fast, options, counter.part(item.n_bytes))
        except (WcodecError, OSError) as error:
            failures[shard] = error
            continue
        found["n_files"] += 1
        for key, value in row.items():
            found[key] += value
    if failures:
        raise PartialError(failures, found["n_files"])
    return found
