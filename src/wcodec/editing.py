# SPDX-License-Identifier: Apache-2.0
"""Single layers of wcodec files: taking one out, comparing two files, replacing and adding layers.
What is not touched is copied as it is stored, without being decoded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from wcodec._version import __version__
from wcodec.checkpoint import SOURCE_SUFFIX
from wcodec.codec import batch
from wcodec.codec.plan import DEFAULT_BLOCK_ELEMENTS
from wcodec.container import IndexEntry, Metadata, Reader, Writer
from wcodec.decode import Path, as_array, decode_windows
from wcodec.dtypes import bits, numpy_dtype
from wcodec.encode import EncodeOptions, encode_layer
from wcodec.progress import Counter
from wcodec.publication import publish
from wcodec.safetensors_file import LENGTH_BYTES, canonical_header, parse_header
from wcodec.sources import ArrayTensor, Tensor, open_source


def decode_layer(path: Path, name: str, *, threads: int | None = None) -> NDArray[Any]:
    """Decode one layer of a wcodec file, reading no other; the arrays are those of
    decode_checkpoint.

    Raises KeyError if there is no such layer, and what decode_checkpoint raises.
    """
    with Reader(path) as reader:
        entry = _entry(reader, name, path)
        return as_array(_bytes_of(reader, entry, threads), entry.dtype, entry.shape)


def _entry(reader: Reader, name: str, path: Path) -> IndexEntry:
    if name not in reader.layers:
        raise KeyError(f"{os.fspath(path)}: has no layer {name!r:.200}")
    return reader.layers[name]


def _bytes_of(reader: Reader, entry: IndexEntry, threads: int | None) -> NDArray[np.uint8]:
    data = np.empty(entry.data_bytes, dtype=np.uint8)
    layer = reader.open_layer(reader.resolve(entry.name).name)
    for _ in decode_windows(layer, batch.thread_count(threads), data):
        pass
    return data


# ---- Comparing ----


def diff(a: Path, b: Path, *, threads: int | None = None) -> list[dict[str, Any]]:
    """Compare the layers of two wcodec files, by name.

    Returns a dict for each layer that differs, in the order of `a`, then those that only `b` has:
    `name`; `kind`, one of "only in a", "only in b", "dtype or shape" and "values"; for values also
    `n_weights`, `n_different` (elements of other bits) and `max_difference` (the largest absolute
    difference; None where the dtype is no number of numpy or a difference is not finite). Layers
    stored alike are not decoded. Memory is bounded by windows. Raises what decode_checkpoint
    raises.
    """
    n_threads = batch.thread_count(threads)
    found: list[dict[str, Any]] = []
    with Reader(a) as first, Reader(b) as second:
        for name, entry in first.layers.items():
            other = second.layers.get(name)
            if other is None:
                found.append({"name": name, "kind": "only in a"})
            elif (entry.dtype, entry.shape) != (other.dtype, other.shape):
                found.append({"name": name, "kind": "dtype or shape"})
            elif not _stored_alike(first, second, name):
                found.extend(_value_differences(first, second, entry, n_threads))
        found.extend(
            {"name": n, "kind": "only in b"} for n in second.layers if n not in first.layers
        )
    return found


def _stored_alike(first: Reader, second: Reader, name: str) -> bool:
    """Whether both records are the same bytes, which then decode alike."""
    a, b = first.resolve(name), second.resolve(name)
    if (a.name, a.record_bytes, a.record_crc) != (b.name, b.record_bytes, b.record_crc):
        return False
    pairs = zip(first.read_record(a.name), second.read_record(b.name), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def _value_differences(
    first: Reader, second: Reader, entry: IndexEntry, threads: int
) -> Iterator[dict[str, Any]]:
    size = bits(entry.dtype)
    dtype = numpy_dtype(entry.dtype) if size and size % 8 == 0 else np.dtype(np.uint8)
    n_different, largest = 0, 0.0
    for x, y in _aligned(first, second, entry.name, threads):
        width = dtype.itemsize
        different = (x.reshape(-1, width) != y.reshape(-1, width)).any(axis=1)
        if different.any():
            n_different += int(different.sum())
            largest = max(largest, _largest(x.view(dtype)[different], y.view(dtype)[different]))
    if n_different:
        is_number = bool(size and size % 8 == 0) and np.isfinite(largest)
        yield {
            "name": entry.name,
            "kind": "values",
            "n_weights": prod(entry.shape) if size else entry.data_bytes,
            "n_different": n_different,
            "max_difference": largest if is_number else None,
        }


def _largest(x: NDArray[Any], y: NDArray[Any]) -> float:
    """The largest absolute difference, infinite where one is not finite."""
    wide = np.complex128 if x.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        difference = np.abs(x.astype(wide) - y.astype(wide))
    return float(np.where(np.isfinite(difference), difference, np.inf).max())


def _aligned(
    first: Reader, second: Reader, name: str, threads: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """The bytes of a layer in both files, in pieces of equal size of whole elements."""
    windows = [
        decode_windows(reader.open_layer(reader.resolve(name).name), threads)
        for reader in (first, second)
    ]
    left = [np.empty(0, np.uint8), np.empty(0, np.uint8)]
    while True:
        for i, source in enumerate(windows):
            if not len(left[i]):
                left[i] = next(source, left[i])
        n = min(map(len, left))
        if not n:
            return
        yield left[0][:n], left[1][:n]
        left = [part[n:] for part in left]


# ---- Editing ----


def edit_checkpoint(
    input: Path,
    output: Path,
    tensors: Mapping[str, NDArray[Any]] | Path,
    *,
    remove: Iterable[str] = (),
    threads: int | None = None,
) -> dict[str, Any]:
    """Write a wcodec file with some layers of another replaced, added or removed.

    `tensors` is a dict of arrays or the path of a safetensors file: those whose names `input` has
    replace its layers, the others follow at the end. `output` appears whole or not at all (an
    existing file is replaced; it may be `input`). Untouched layers are copied as they are stored;
    only a layer that shares its bytes with one that goes is encoded again.

    The result is no longer made of a certain safetensors file: decoding it writes one with a
    canonical header, which keeps the `__metadata__` of the source. Returns `input_bytes` and
    `output_bytes` (of both wcodec files), `seconds`, and the names of layers `copied`, `replaced`,
    `added` and `removed`.

    Raises KeyError for a name to remove that the file has not, ValueError for one in `tensors` too,
    and what encode_checkpoint and decode_checkpoint raise.
    """
    started = time.perf_counter()
    removed = list(dict.fromkeys(remove))
    options = _options(threads)
    with Reader(input) as reader, open_source(tensors) as source:
        new = {tensor.name: tensor for tensor in source.tensors}
        for name in removed:
            _entry(reader, name, input)
            if name in new:
                raise ValueError(f"layer {name!r:.200} is both to be removed and to be written")
        gone = {*removed, *new}
        metadata = _edited_metadata(reader.metadata)
        copied = []
        with (
            publish(output, force=True) as file,
            Writer(file, metadata=metadata) as writer,
        ):
            for name, entry in reader.layers.items():
                if name in new:
                    encode_layer(writer, new[name], options, Counter(None, 0))
                elif name not in gone:
                    copied.append(name)
                    _carry_over(reader, writer, entry, gone, options)
            added = [name for name in new if name not in reader.layers]
            for name in added:
                encode_layer(writer, new[name], options, Counter(None, 0))
            source.check_end()
        return {
            "input_bytes": reader.file_bytes,
            "output_bytes": writer.file_bytes,
            "seconds": time.perf_counter() - started,
            "copied": copied,
            "replaced": [name for name in new if name in reader.layers],
            "added": added,
            "removed": removed,
        }


def _options(threads: int | None) -> EncodeOptions:
    return EncodeOptions("default", 16, DEFAULT_BLOCK_ELEMENTS, True, batch.thread_count(threads))


def _edited_metadata(metadata: Metadata) -> Metadata:
    """The metadata of the result: that of the file, and the source's text map where it had one."""
    kept: dict[str, str] = {}
    if metadata.source_header is not None:
        kept = parse_header(metadata.source_header.encode("utf-8")).metadata or {}
    return Metadata(
        wcodec_version=__version__,
        model_name=metadata.model_name,
        options=metadata.options,
        metadata={**kept, **metadata.metadata},
        duplicates=metadata.duplicates,
    )


def _carry_over(
    reader: Reader, writer: Writer, entry: IndexEntry, gone: set[str], options: EncodeOptions
) -> None:
    """Copy a record; a reference to a layer that goes takes its bytes itself."""
    if entry.is_reference and entry.target in gone:
        data = _bytes_of(reader, entry, options.threads)
        tensor: Tensor = ArrayTensor(entry.name, data, entry.dtype, entry.shape)
        encode_layer(writer, tensor, options, Counter(None, 0))
    else:
        writer.copy_record(
            reader.open_layer(entry.name).head, entry, reader.read_record(entry.name)
        )


def extract(path: Path, name: str, output: Path, *, threads: int | None = None) -> dict[str, Any]:
    """Write one layer of a wcodec file to a file of its own: a safetensors file if the name of
    `output` ends so, else a wcodec file with the record as it is stored.

    Returns `input_bytes` (of its record) and `output_bytes`. Raises KeyError if there is no such
    layer, ValueError if `output` is `path`, and what decode_checkpoint raises.
    """
    with Reader(path) as reader:
        entry = _entry(reader, name, path)
        if os.path.exists(output) and os.path.samefile(path, output):
            raise ValueError(f"output {os.fspath(output)!r} is the input itself")
        with publish(output, force=True) as file:
            if os.fspath(output).endswith(SOURCE_SUFFIX):
                header = canonical_header([entry], {}).encode("utf-8")
                file.write(len(header).to_bytes(LENGTH_BYTES, "little") + header)
                file.write(_bytes_of(reader, entry, threads).data)
            else:
                _write_alone(reader, entry, file, threads)
            return {"input_bytes": entry.record_bytes, "output_bytes": file.tell()}


def _write_alone(reader: Reader, entry: IndexEntry, file: IO[bytes], threads: int | None) -> None:
    metadata = Metadata(wcodec_version=__version__, options=reader.metadata.options)
    with Writer(file, metadata=metadata) as writer:
        _carry_over(reader, writer, entry, {entry.target}, _options(threads))
