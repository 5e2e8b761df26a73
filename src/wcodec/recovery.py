# SPDX-License-Identifier: Apache-2.0
"""What is left of a damaged file: which blocks are damaged, and a new file of the layers that are
whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from wcodec._version import __version__
from wcodec.block_header import block_name
from wcodec.checksum import crc32
from wcodec.container import BLOCK_HEADER, IndexEntry, Layer, Metadata, Reader, Writer
from wcodec.decode import Path, decode_budget
from wcodec.editing import without_source
from wcodec.errors import CorruptError, FormatError, TruncatedError
from wcodec.limits import ReadLimits
from wcodec.memory import Budget
from wcodec.publication import publish
from wcodec.safetensors_file import parse_header
from wcodec.windows import decode_windows

CRC_BYTES = 4  # of a block, before what it covers

Damage = dict[str, Any]


def find_damage(
    path: Path, *, threads: int | None = None, limits: ReadLimits | None = None
) -> list[Damage]:
    """List everything that is damaged in a wcodec file, in the order of the file.

    Returns a dict each: `layer` and `block` (None where it is none in particular), and `error`. A
    file without its footer or index is read by its records. Raises FormatError for a file in which
    no layer can be found (or that is of another version, or exceeds a limit), and OSError.
    """
    budget = decode_budget(threads)
    with _opened(path, limits or ReadLimits()) as (reader, found):
        for entry in reader.layers.values():
            if not entry.is_reference:
                found.extend(_damage_of(reader, entry, budget))
        return found


def recover(
    path: Path, output: Path, *, threads: int | None = None, limits: ReadLimits | None = None
) -> dict[str, Any]:
    """Write a wcodec file with the layers of a damaged one that are whole, copied as they are
    stored.

    A file that lost no layer (only its footer, say) comes back with its metadata and decodes to its
    source; else decoding the output writes a canonical header. `output` appears whole or not at all
    (an existing file is replaced; it may not be `path`).

    Returns `input_bytes`, `output_bytes`, `recovered` (names of layers) and `lost`: what
    find_damage says, and a dict for each layer whose bytes were those of a lost one. Raises what
    find_damage raises, and ValueError if `output` is `path`.
    """
    if os.path.exists(output) and os.path.samefile(path, output):
        raise ValueError(f"output {os.fspath(output)!r} is the input itself")
    budget = decode_budget(threads)
    with _opened(path, limits or ReadLimits()) as (reader, lost):
        whole: list[IndexEntry] = []
        for entry in reader.layers.values():
            if entry.is_reference:
                damage = _lost_target(entry, whole)
            else:
                damage = _damage_of(reader, entry, budget)
            lost.extend(damage)
            if not damage:
                whole.append(entry)
        with (
            publish(output, force=True) as file,
            Writer(file, metadata=_metadata_for(reader, whole)) as writer,
        ):
            for entry in whole:
                head = reader.open_layer(entry.name).head
                writer.copy_record(head, entry, reader.read_record(entry.name))
        return {
            "input_bytes": reader.file_bytes,
            "output_bytes": writer.file_bytes,
            "recovered": [entry.name for entry in whole],
            "lost": lost,
        }


@contextmanager
def _opened(path: Path, limits: ReadLimits) -> Iterator[tuple[Reader, list[Damage]]]:
    """A Reader, by the records where the index does not lead to them, and what that has found."""
    found: list[Damage] = []
    try:
        reader = Reader(path, limits=limits)
    except (CorruptError, TruncatedError) as error:
        found.append(_damage(None, None, error))
        reader = Reader(path, limits=limits, scan=True)
        if not reader.layers:
            reader.close()
            raise
        for part in reader.skipped:
            text = f"{part.size} bytes at offset {part.offset}: {part.reason}"
            found.append({"layer": None, "block": None, "error": text})
    with reader:
        yield reader, found


def _damage(layer: str | None, block: int | None, error: Exception) -> Damage:
    return {"layer": layer, "block": block, "error": str(error)}


def _damage_of(reader: Reader, entry: IndexEntry, budget: Budget) -> list[Damage]:
    """What is damaged in a stored layer: its head or directory, each of its blocks, or, where all
    checksums are right, what the decoder says.
    """
    name = entry.name
    try:
        layer = reader.open_layer(name)
        found = list(_damaged_blocks(layer))
        if not found:
            for _ in decode_windows(layer, budget):
                pass
            for _ in reader.read_record(name):
                pass
    except FormatError as error:
        return [_damage(name, None, error)]
    return found


def _damaged_blocks(layer: Layer) -> Iterator[Damage]:
    name = layer.entry.name
    for i, header in enumerate(layer.headers):
        block = layer.read_blocks(i, 1).data[: layer.offsets[i + 1] - layer.offsets[i]]
        if block[: BLOCK_HEADER.itemsize].tobytes() != header.tobytes():
            problem = "its header is not the one in the directory"
        elif crc32(block[CRC_BYTES:]) != header["crc"]:
            problem = "its CRC does not match"
        else:
            continue
        yield _damage(name, i, CorruptError(f"{block_name(i, name)}: {problem}"))


def _lost_target(entry: IndexEntry, whole: list[IndexEntry]) -> list[Damage]:
    if any(other.name == entry.target for other in whole):
        return []
    text = f"layer {entry.name!r:.200}: has the bytes of {entry.target!r:.200}, which is lost"
    return [{"layer": entry.name, "block": None, "error": text}]


def _metadata_for(reader: Reader, whole: list[IndexEntry]) -> Metadata:
    """The file's own metadata if these layers are what its source had, else without the source."""
    try:
        metadata = reader.metadata
    except FormatError:
        return Metadata(wcodec_version=__version__, duplicates=True)
    if metadata.source_header is not None:
        tensors = parse_header(metadata.source_header.encode("utf-8")).tensors
        if [tensor.name for tensor in tensors] == [entry.name for entry in whole]:
            return metadata
    return without_source(metadata, {entry.name for entry in whole})
