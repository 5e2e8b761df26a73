# SPDX-License-Identifier: Apache-2.0
"""The decoding flow: container -> blocks -> windows -> arrays or a safetensors file. The mirror of
encode.py.

Nothing here needs the encoder. Memory is bounded by a few windows beside the arrays that are asked
for.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wcodec.checkpoint import CheckpointPlan, join, plan_decode
from wcodec.codec import batch
from wcodec.codec.layout import Grid, matrix_shape
from wcodec.container import (
    KIND_REFERENCE,
    Layer,
    LayerHead,
    Reader,
    SequentialLayer,
    SequentialReader,
)
from wcodec.directories import Comparison, DiffersError, convert_directory
from wcodec.dtypes import bits, numpy_dtype, unit_bytes
from wcodec.errors import CorruptError, LimitError
from wcodec.limits import ReadLimits
from wcodec.memory import Budget, budget
from wcodec.progress import Counter, Progress, say, size_change, watching
from wcodec.publication import publish
from wcodec.safetensors_file import TensorEntry, canonical_header, parse_header

KEPT_BYTES = 16 << 20  # a decompressed block of coding lz, and once more unshuffled

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class DecodeOptions:
    """What goes for every file of a run."""

    budget: Budget
    limits: ReadLimits
    verbose: bool = False


def decode_budget(threads: int | None, max_memory: int | None = None) -> Budget:
    """What a run of decoding may use. Raises ValueError for arguments out of range."""
    return budget(batch.thread_count(threads), max_memory, KEPT_BYTES)


class Output(Protocol):
    """Anything to write bytes to."""

    def write(self, data: Any, /) -> Any: ...


def decode_checkpoint(
    input: Path | IO[bytes],
    output: Path | Output | None = None,
    *,
    device: str = "cpu",
    use_gpu: bool = False,
    threads: int | None = None,
    max_memory: int | None = None,
    limits: ReadLimits | None = None,
    resume: bool = False,
    verbose: bool = False,
    progress: Progress | type | None = None,
) -> dict[str, Any]:
    """Decode a wcodec file or directory into arrays, or back into what it was made of.

    `input` is a path or a binary file object; one that cannot seek (a pipe) is decoded as its bytes
    arrive. Without `output` the result is a dict of numpy arrays by layer name (ml_dtypes for
    bfloat16 and fp8; F4 and F6 as packed uint8; freshly allocated, writable). With `output`, a path
    or an object with write(bytes), a safetensors file is written and the result is a dict of
    statistics: `input_bytes`, `output_bytes`, `seconds`, `n_layers`. If a safetensors file was
    encoded, the same bytes come back; a file made of arrays gets a canonical header. A path appears
    whole or not at all (an existing file is replaced).

    Of a directory, and what is below it, every wcodec file becomes a safetensors file, the index of
    the source comes back, and other files are copied; the statistics have `files` (a dict each:
    source, target, input_bytes, output_bytes, kept), `copied` and `left_out` instead of `n_layers`.
    With `resume`, for a file as for a directory, an output that has the right bytes already is
    kept. A directory without `output` gives the arrays of all its shards.

    `max_memory` bounds what is held at once, in bytes beside the arrays asked for and the index (of
    long names); the default is 512 MiB. `progress` is called with (bytes decoded, bytes in all),
    all being 0 while a pipe has not told it, or is a class like tqdm.tqdm. `verbose` prints a line
    a layer to stderr.

    Raises TruncatedError, CorruptError (naming layer and block), UnsupportedError or LimitError
    (see ReadLimits), OSError from the file system, NotImplementedError for `device` other than
    "cpu" and for `use_gpu`, which are not built yet. PartialError if some files of a directory
    fail: the others are there, but no index. ValueError for an output that is the input or in it,
    and for less `max_memory` than the least that the message names.
    """
    if device != "cpu":
        raise NotImplementedError(f"device={device!r} is not built yet; use 'cpu'")
    if use_gpu:
        raise NotImplementedError("use_gpu=True is not built yet; use False")
    options = DecodeOptions(decode_budget(threads, max_memory), limits or ReadLimits(), verbose)
    with watching(progress) as watch:
        if isinstance(input, (str, os.PathLike)) and os.path.isdir(input):
            return _decode_directory(os.fspath(input), output, options, resume, watch)
        started = time.perf_counter()
        if output is None:
            with open_reader(input, options.limits) as reader:
                return _decode_arrays(reader, options, watch)
        statistics = _decode_file(input, output, options, resume, watch)
        return {**statistics, "seconds": time.perf_counter() - started}


def _decode_file(
    input: Any, output: Any, options: DecodeOptions, resume: bool, progress: Progress | None
) -> dict[str, Any]:
    """Write the safetensors file of a wcodec file; returns statistics."""
    with open_reader(input, options.limits) as reader:
        if not isinstance(output, (str, os.PathLike)):
            return write_safetensors(reader, output, options, progress)
        if not hasattr(input, "read") and os.path.exists(output):
            if os.path.samefile(input, output):
                raise ValueError(f"output {os.fspath(output)!r} is the input itself")
            if resume and os.path.isfile(output):
                with contextlib.suppress(DiffersError), Comparison(os.fspath(output)) as comparison:
                    return write_safetensors(reader, comparison, options, progress)
        with publish(output, force=True) as file:
            return write_safetensors(reader, file, options, progress)


def _decode_directory(
    input: str, output: Any, options: DecodeOptions, resume: bool, progress: Progress | None
) -> dict[str, Any]:
    started = time.perf_counter()

    def convert(source: str, target: str, progress: Progress | None) -> int:
        statistics = _decode_file(source, target, options, False, progress)
        return int(statistics["output_bytes"])

    def matches(source: str, target: str, progress: Progress | None) -> bool:
        with Reader(source, limits=options.limits) as reader:
            try:
                with Comparison(target) as comparison:
                    write_safetensors(reader, comparison, options, progress)
            except DiffersError:
                return False
        return True

    plan = plan_decode(input, options.limits)
    if output is None:
        return _decode_shards(plan, options, progress)
    if not isinstance(output, (str, os.PathLike)):
        raise ValueError("the output of a directory is a directory, expected a path")
    statistics = convert_directory(
        plan, os.fspath(output), convert, matches, resume=resume, progress=progress
    )
    return {**statistics, "seconds": time.perf_counter() - started}


def _decode_shards(
    plan: CheckpointPlan, options: DecodeOptions, progress: Progress | None
) -> dict[str, NDArray[Any]]:
    counter = Counter(progress, sum(item.n_bytes for item in plan.shards))
    arrays: dict[str, NDArray[Any]] = {}
    for item in plan.shards:
        path = join(plan.source, item.source)
        with Reader(path, limits=options.limits) as reader:
            twice = arrays.keys() & reader.layers.keys()
            if twice:
                raise ValueError(f"{path}: layer {min(twice)!r} is in another file as well")
            arrays.update(_decode_arrays(reader, options, counter.part(item.n_bytes)))
    return arrays


@contextmanager
def open_reader(input: Path | IO[bytes], limits: ReadLimits) -> Iterator[Reader | SequentialReader]:
    """A Reader where the input can seek, else a SequentialReader."""
    if hasattr(input, "read") and not (hasattr(input, "seekable") and input.seekable()):
        yield SequentialReader(input, limits=limits)
    else:
        with Reader(input, limits=limits) as reader:
            yield reader


def layers_of(reader: Reader | SequentialReader) -> Iterator[Layer | SequentialLayer]:
    """All layers in the order of the file, references included."""
    if isinstance(reader, SequentialReader):
        yield from reader
    else:
        for name in reader.layers:
            yield reader.open_layer(name)


def decode_windows(
    layer: Layer | SequentialLayer, budget: Budget, out: NDArray[np.uint8] | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Decode a stored layer window by window and yield the bytes of each, in order.

    With `out`, an array of data_bytes, windows are decoded into their places in it; else each is
    valid until the next. Raises ValueError for a layer whose windows the budget does not allow.
    """
    head = layer.head
    grid = grid_of(head)
    scratch = batch.aligned_empty(0)
    first_block = 0
    for window in grid.windows(budget.window_bytes):
        budget.check(head.name, window.size)
        if out is not None:
            target = out[window.start : window.start + window.size]
        else:
            if window.size > len(scratch):
                scratch = batch.aligned_empty(window.size)
            target = scratch[: window.size]
        if window.descriptors is None:
            groups = batch.decode_row_groups(
                _take(layer, 1), window.rows, layer=head.name, first_block=first_block
            )
            first_block += 1
            descriptors, row_index = grid.group_descriptors(groups)
        else:
            descriptors, row_index = window.descriptors, batch.NO_ROWS
        batch.decode_blocks(
            _take(layer, len(descriptors)),
            head.family,
            descriptors,
            row_index,
            target,
            grid.unit_bytes,
            threads=budget.threads,
            layer=head.name,
            first_block=first_block,
        )
        first_block += len(descriptors)
        yield target
    layer.finish()


def _take(layer: Layer | SequentialLayer, count: int) -> batch.Blocks:
    taken = layer.take(count)
    return batch.Blocks(taken.headers, taken.data)


def grid_of(head: LayerHead) -> Grid:
    """The block grid that a head describes. Raises CorruptError if it is not legal."""
    if head.data_bytes == 0:
        rows = cols = 0
    else:
        rows, cols = matrix_shape(head.dtype, head.shape, head.data_bytes, head.row_axes)
    grid = Grid(
        rows,
        cols,
        unit_bytes(head.dtype),
        head.block_rows,
        head.col_bands,
        head.panel_rows,
        head.row_groups,
    )
    grid.check(head.name)
    return grid


def _decode_arrays(
    reader: Reader | SequentialReader, options: DecodeOptions, progress: Progress | None
) -> dict[str, NDArray[Any]]:
    counter = Counter(progress, _total_bytes(reader))
    arrays: dict[str, NDArray[Any]] = {}
    for layer in layers_of(reader):
        head = layer.head
        _say_layer(head, options)
        if head.kind == KIND_REFERENCE:
            data = arrays[head.target].reshape(-1).view(np.uint8).copy()
            counter.add(len(data))
        else:
            data = batch.aligned_empty(head.data_bytes)
            for window in decode_windows(layer, options.budget, data):
                counter.add(len(window))
        arrays[head.name] = as_array(data, head.dtype, head.shape)
    return arrays


def as_array(data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """View the bytes of a layer as the array it stands for; packed and unknown dtypes as uint8."""
    shape = array_shape(dtype, shape, len(data))
    try:
        return data.view(numpy_dtype(dtype)).reshape(shape)
    except ValueError as error:  # an empty layer may have axes of any size
        raise LimitError(f"numpy has no array of shape {shape}: {error}") from None


def array_shape(dtype: str, shape: tuple[int, ...], data_bytes: int) -> tuple[int, ...]:
    """Shape of the array of a layer: its own; of packed bytes where an element is none; flat where
    no axis allows that.
    """
    size = bits(dtype)
    if size is not None and size % 8 == 0:
        return shape
    if size is not None and shape and shape[-1] * size % 8 == 0:
        return (*shape[:-1], shape[-1] * size // 8)
    return (data_bytes,)


def write_safetensors(
    reader: Reader | SequentialReader,
    file: Output,
    options: DecodeOptions,
    progress: Progress | None,
) -> dict[str, Any]:
    """Write the safetensors file of a container; returns statistics. Raises CorruptError where its
    header and layers disagree.
    """
    header = _safetensors_header(reader).encode("utf-8")
    counter = Counter(progress, _total_bytes(reader))
    _write_all(file, len(header).to_bytes(8, "little") + header)
    n_layers = 0
    for layer in _layers_by_header(reader, parse_header(header).tensors):
        n_layers += 1
        _say_layer(layer.head, options)
        if layer.head.kind == KIND_REFERENCE:
            layer = _target_of(reader, layer.head)
        for window in decode_windows(layer, options.budget):
            _write_all(file, window.data)
            counter.add(len(window))
    output_bytes = 8 + len(header) + counter.done
    if options.verbose:
        say(size_change(reader.file_bytes, output_bytes))
    return {
        "input_bytes": reader.file_bytes,
        "output_bytes": output_bytes,
        "n_layers": n_layers,
    }


def _say_layer(head: LayerHead, options: DecodeOptions) -> None:
    if options.verbose:
        coding = (
            f"the same as {head.target}"
            if head.kind == KIND_REFERENCE
            else batch.CODING_NAMES[head.family]
        )
        say(f"{head.name}  {head.dtype} {list(head.shape)}  {coding}  {head.data_bytes} bytes")


def _write_all(file: Output, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while len(view):
        written = file.write(view)  # raw files may take a part; other objects say nothing
        view = view[len(view) if written is None else written :]


def _layers_by_header(
    reader: Reader | SequentialReader, tensors: list[TensorEntry]
) -> Iterator[Layer | SequentialLayer]:
    """The layers of a container in the order of a safetensors header that must name exactly them.

    A canonical header may have another order than the file, a source's header not.
    """
    layers = layers_of(reader)
    if isinstance(reader, Reader) and reader.metadata.source_header is None:
        layers = (reader.open_layer(tensor.name) for tensor in tensors)
    for tensor, layer in zip_longest(tensors, layers):
        if layer is None:
            raise CorruptError(
                f"layer {tensor.name!r}: named by the source's header, but not in the file"
            )
        head = layer.head
        found = (head.name, head.dtype, head.shape, head.data_bytes)
        if tensor is None:
            raise CorruptError(f"layer {head.name!r}: not named by the source's header")
        wanted = (tensor.name, tensor.dtype, tensor.shape, tensor.data_bytes)
        if found != wanted:
            raise CorruptError(
                f"layer {head.name!r}: is {found}, the source's header says {wanted}"
            )
        yield layer


def _safetensors_header(reader: Reader | SequentialReader) -> str:
    """The header of the file to write: the source's own, else a canonical one."""
    if reader.metadata.source_header is not None:
        return reader.metadata.source_header
    if isinstance(reader, SequentialReader):
        raise LimitError(
            "file: made of arrays, so its safetensors header follows from the index at its end; "
            "decode it from a file, or into arrays"
        )
    return canonical_header(reader.layers.values(), reader.metadata.metadata)


def _target_of(reader: Reader | SequentialReader, head: LayerHead) -> Layer:
    if isinstance(reader, SequentialReader):
        raise LimitError(
            f"layer {head.name!r}: has the bytes of {head.target!r}, which a pipe has passed; "
            "decode it from a file, or into arrays"
        )
    return reader.open_layer(head.target)


def _total_bytes(reader: Reader | SequentialReader) -> int:
    if isinstance(reader, SequentialReader):
        return 0
    return sum(entry.data_bytes for entry in reader.layers.values())


def decode_array(
    data: bytes | bytearray | memoryview,
    *,
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """Decode the bytes that encode_array made (or any wcodec file of one layer) into an array.

    `out`, a writable C-contiguous array of the same dtype and shape, is filled and returned;
    without it the array is new. Raises ValueError if `out` does not fit or the file has not exactly
    one layer, and what decode_checkpoint raises.
    """
    return _decode_only_layer(Reader(_BytesSource(memoryview(data).cast("B"))), out, threads)


def decode_layer_standalone(
    path: Path, *, out: NDArray[Any] | None = None, threads: int | None = None
) -> NDArray[Any]:
    """Decode a wcodec file of one layer, as encode_layer_standalone writes it; otherwise like
    decode_array.
    """
    with Reader(path) as reader:
        return _decode_only_layer(reader, out, threads)


class _BytesSource:
    """Bytes in memory, for Reader."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def size(self) -> int:
        return len(self._data)

    def read_ranges(self, ranges: list[tuple[int, int]]) -> list[memoryview]:
        return [self._data[offset : offset + size] for offset, size in ranges]


def _decode_only_layer(
    reader: Reader, out: NDArray[Any] | None, threads: int | None
) -> NDArray[Any]:
    if len(reader.layers) != 1:
        raise ValueError(f"the file has {len(reader.layers)} layers, expected one")
    layer = reader.open_layer(next(iter(reader.layers)))
    head = layer.head
    if out is None:
        out = as_array(batch.aligned_empty(head.data_bytes), head.dtype, head.shape)
    else:
        dtype = numpy_dtype(head.dtype)
        shape = array_shape(head.dtype, head.shape, head.data_bytes)
        if out.dtype != dtype or out.shape != shape:
            raise ValueError(
                f"out is {out.dtype} of shape {out.shape}, the layer {dtype} of shape {shape}"
            )
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise ValueError("out is not C-contiguous and writable")
    for _ in decode_windows(layer, decode_budget(threads), out.reshape(-1).view(np.uint8)):
        pass
    return out
