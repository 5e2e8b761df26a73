# SPDX-License-Identifier: Apache-2.0
"""Taking layers out of wcodec files, replacing and adding them. What is not touched is copied as it
is stored, without being decoded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping
from typing import IO, Any, NamedTuple

from numpy.typing import NDArray

from wcodec._version import __version__
from wcodec.checkpoint import SOURCE_SUFFIX, ShardEdit, plan_edit
from wcodec.codec.spatial import SpatialOptions
from wcodec.container import IndexEntry, Metadata, Reader, Writer
from wcodec.decode import Path
from wcodec.dequantise import QUANTISED, scale_name
from wcodec.directories import convert_directory, copy_file
from wcodec.layer_encoder import EncodeOptions, LayerEncoder, encode_budget
from wcodec.layers import Layers, bytes_of
from wcodec.progress import Counter, Progress
from wcodec.publication import publish
from wcodec.safetensors_file import LENGTH_BYTES, canonical_header, parse_header
from wcodec.sources import ArrayTensor, Source, Tensor, open_source


def edit_checkpoint(
    input: Path,
    output: Path,
    tensors: Mapping[str, NDArray[Any]] | Path,
    *,
    remove: Iterable[str] = (),
    threads: int | None = None,
) -> dict[str, Any]:
    """Write a wcodec file or directory with some layers of another replaced, added or removed.

    `tensors` is a dict of arrays or the path of a safetensors file: those whose names `input` has
    replace its layers, the others follow at the end. `output` appears whole or not at all (an
    existing file is replaced; it may be `input`). Untouched layers are copied as they are stored;
    only a layer that shares its bytes with one that goes is encoded again.

    Of a directory, each layer is replaced in the shard that has it, others are added to the last
    shard, the index follows, a shard without layers is left out of it, and what is not touched is
    copied.

    The result is no longer made of a certain safetensors file: decoding it writes one with a
    canonical header, which keeps the `__metadata__` of the source. Returns `input_bytes` and
    `output_bytes` (of both wcodec files, or of all shards), `seconds`, and the names of layers
    `copied`, `replaced`, `added` and `removed`.

    Raises KeyError for a name to remove that `input` has not, ValueError for one in `tensors` too,
    for a layer to add to a directory with the shards of several models and for an output directory
    in the wrong place, and what encode_checkpoint and decode_checkpoint raise.
    """
    started = time.perf_counter()
    removed = list(dict.fromkeys(remove))
    options = _options(threads)
    with Layers(input) as layers, open_source(tensors) as source:
        new = {tensor.name: tensor for tensor in source.tensors}
        for name in removed:
            layers.find(name)
            if name in new:
                raise ValueError(f"layer {name!r:.200} is both to be removed and to be written")
        edits = _edits_by_file(layers, new, removed)
        if os.path.isdir(input):
            sizes = _edit_directory(layers, os.fspath(output), edits, source, options)
        else:
            (edit,) = edits.values()
            sizes = _edit_file(layers.path, output, edit, source, options)
        gone = {*removed, *new}
        return {
            **sizes,
            "seconds": time.perf_counter() - started,
            "copied": [name for name in layers.readers if name not in gone],
            "replaced": [name for name in new if name in layers.readers],
            "added": [name for name in new if name not in layers.readers],
            "removed": removed,
        }


class _Edit(NamedTuple):
    """What happens to one file."""

    reader: Reader
    new: dict[str, Tensor]
    removed: list[str]

    def summary(self) -> ShardEdit:
        """What the index of a directory has to know of it."""
        before = self.reader.layers
        gone = {*self.removed, *self.new}
        kept = [entry.data_bytes for name, entry in before.items() if name not in gone]
        written = [tensor.data_bytes for tensor in self.new.values()]
        growth = sum(kept) + sum(written) - sum(entry.data_bytes for entry in before.values())
        added = [name for name in self.new if name not in before]
        return ShardEdit(self.removed, added, growth, n_layers=len(kept) + len(written))


def _edits_by_file(
    layers: Layers, new: Mapping[str, Tensor], removed: Iterable[str]
) -> dict[str, _Edit]:
    """The edits of each file, by its path; files without any have empty ones."""
    edits = {path: _Edit(reader, {}, []) for path, reader in layers.files.items()}
    last = list(edits)[-1]
    for name in removed:
        edits[layers.homes[name]].removed.append(name)
    for name, tensor in new.items():
        edits[layers.homes.get(name, last)].new[name] = tensor
    return edits


def _edit_file(
    input: str, output: Path, edit: _Edit, source: Source, options: EncodeOptions
) -> dict[str, Any]:
    """Write the file that has this edit; returns both sizes."""
    reader, gone = edit.reader, {*edit.removed, *edit.new}
    metadata = without_source(reader.metadata, reader.layers.keys() - gone)
    with (
        publish(output, force=True) as file,
        Writer(file, metadata=metadata) as writer,
    ):
        encoder = LayerEncoder(writer, options, Counter(None, 0))
        for name, entry in reader.layers.items():
            if name in edit.new:
                encoder.encode(edit.new[name])
            elif name not in gone:
                _carry_over(reader, writer, entry, gone, options)
        for name, tensor in edit.new.items():
            if name not in reader.layers:
                encoder.encode(tensor)
        writer.close()
        source.check_end()
    return {"input_bytes": reader.file_bytes, "output_bytes": writer.file_bytes}


def _edit_directory(
    layers: Layers, output: str, edits: dict[str, _Edit], source: Source, options: EncodeOptions
) -> dict[str, Any]:
    """Write the directory that has these edits; returns the sizes of all shards."""

    def convert(path: str, target: str, progress: Progress | None) -> int:
        edit = edits[path]
        if edit.new or edit.removed:
            return int(_edit_file(path, target, edit, source, options)["output_bytes"])
        copy_file(path, target)
        return edit.reader.file_bytes

    def matches(path: str, target: str, progress: Progress | None) -> bool:
        return False  # an edit is not resumed

    below = {
        os.path.relpath(path, layers.path): edit.summary()
        for path, edit in edits.items()
        if edit.new or edit.removed
    }
    plan = plan_edit(layers.path, below)
    statistics = convert_directory(plan, output, convert, matches, resume=False, progress=None)
    return {name: statistics[name] for name in ("input_bytes", "output_bytes")}


def _options(threads: int | None) -> EncodeOptions:
    budget = encode_budget(threads)
    return EncodeOptions.of("default", SpatialOptions(), None, True, budget)


def without_source(metadata: Metadata, unchanged: Collection[str]) -> Metadata:
    """The metadata of a file with other layers than its source, and those `unchanged`: it keeps the
    source's text map.
    """
    kept: dict[str, str] = {}
    options = dict(metadata.options)
    if isinstance(quantised := options.get(QUANTISED), dict):
        options[QUANTISED] = {
            name: dtype
            for name, dtype in quantised.items()
            if name in unchanged and scale_name(name) in unchanged
        }
    if metadata.source_header is not None:
        kept = parse_header(metadata.source_header.encode("utf-8")).metadata or {}
    return Metadata(
        wcodec_version=__version__,
        model_name=metadata.model_name,
        options=options,
        metadata={**kept, **metadata.metadata},
        duplicates=metadata.duplicates,
    )


def _carry_over(
    reader: Reader, writer: Writer, entry: IndexEntry, gone: set[str], options: EncodeOptions
) -> None:
    """Copy a record; a reference to a layer that goes takes its bytes itself."""
    if entry.is_reference and entry.target in gone:
        data = bytes_of(reader, entry, options.budget.threads)
        tensor: Tensor = ArrayTensor(entry.name, data, entry.dtype, entry.shape)
        LayerEncoder(writer, options, Counter(None, 0)).encode(tensor)
    else:
        writer.copy_record(
            reader.open_layer(entry.name).head, entry, reader.read_record(entry.name)
        )


def extract(path: Path, name: str, output: Path, *, threads: int | None = None) -> dict[str, Any]:
    """Write one layer of a wcodec file or directory to a file of its own: a safetensors file if the
    name of `output` ends so, else a wcodec file with the record as it is stored.

    Returns `input_bytes` (of its record) and `output_bytes`. Raises KeyError if there is no such
    layer, ValueError if `output` is the file that has it, and what decode_checkpoint raises.
    """
    with Layers(path) as layers:
        reader, entry = layers.find(name)
        if os.path.exists(output) and os.path.samefile(layers.homes[name], output):
            raise ValueError(f"output {os.fspath(output)!r} is the input itself")
        with publish(output, force=True) as file:
            if os.fspath(output).endswith(SOURCE_SUFFIX):
                header = canonical_header([entry], {}).encode("utf-8")
                file.write(len(header).to_bytes(LENGTH_BYTES, "little") + header)
                file.write(bytes_of(reader, entry, threads).data)
            else:
                _write_alone(reader, entry, file, threads)
            return {"input_bytes": entry.record_bytes, "output_bytes": file.tell()}


def _write_alone(reader: Reader, entry: IndexEntry, file: IO[bytes], threads: int | None) -> None:
    metadata = Metadata(wcodec_version=__version__, options=reader.metadata.options)
    with Writer(file, metadata=metadata) as writer:
        _carry_over(reader, writer, entry, {entry.target}, _options(threads))
