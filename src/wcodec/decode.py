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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from wcodec.checkpoint import CheckpointPlan, ShardEdit, edit_indexes, join, plan_decode
from wcodec.codec import batch
from wcodec.container import (
    KIND_REFERENCE,
    BytesInput,
    IndexEntry,
    Layer,
    LayerHead,
    Reader,
    SequentialLayer,
    SequentialReader,
)
from wcodec.dequantise import (
    PlainTensor,
    dequantise,
    quantised_tensors,
    scale_name,
    without_scales,
)
from wcodec.directories import Comparison, DiffersError, convert_directory
from wcodec.dtypes import bits, numpy_dtype
from wcodec.errors import CorruptError, DeviceError, LimitError
from wcodec.limits import ReadLimits
from wcodec.memory import Budget, budget
from wcodec.overlap import Buffers, write_behind
from wcodec.progress import Counter, Progress, say, size_change, watching
from wcodec.publication import publish
from wcodec.runs import decode_layers, decode_runs
from wcodec.safetensors_file import TensorEntry, canonical_header, parse_header
from wcodec.windows import WindowMemory, decode_windows

if TYPE_CHECKING:
    from wcodec.cuda.device import Device

DEVICE_BYTES = 256 << 20  # of layers that a GPU decodes before they are written to a file
KEPT_BYTES = 16 << 20  # a decompressed block of coding lz, and once more unshuffled

Path = str | os.PathLike[str]


class DecodeOptions(NamedTuple):
    """What goes for every file of a run."""

    budget: Budget
    limits: ReadLimits
    verbose: bool = False
    dequantize: bool = False
    device: str = "cpu"


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
    dequantize: bool = False,
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
    bfloat16 and fp8; F4 and F6 as packed uint8; new, writable, small ones side by side in memory
    that goes with the last of them). With `output`, a path
    or an object with write(bytes), a safetensors file is written and the result is a dict of
    statistics: `input_bytes`, `output_bytes`, `seconds`, `n_layers`. If a safetensors file was
    encoded, the same bytes come back; a file made of arrays gets a canonical header. A path appears
    whole or not at all (an existing file is replaced).

    Of a directory, and what is below it, every wcodec file becomes a safetensors file, the index of
    the source comes back, and other files are copied; the statistics have `files` (a dict each:
    source, target, input_bytes, output_bytes, kept), `copied` and `left_out` instead of `n_layers`.
    With `resume`, for a file as for a directory, an output that has the right bytes already is
    kept. A directory without `output` gives the arrays of all its shards.

    `device="cuda"` (or "cuda:1" ...; `use_gpu` means "cuda", too) decodes on a GPU and gives torch
    tensors there; with `output` it writes what the GPU has decoded. See docs/guide/gpu.md.

    With `dequantize`, layers that quant_type="int8" made are floats of their former dtype again
    (scale * integer), and their scales are left out.

    `max_memory` bounds what is held at once, in bytes beside the arrays asked for and the index (of
    long names); the default is 512 MiB. `progress` is called with (bytes decoded, bytes in all),
    all being 0 while a pipe has not told it, or is a class like tqdm.tqdm. `verbose` prints a line
    a layer to stderr.

    Raises TruncatedError, CorruptError (naming layer and block), UnsupportedError or LimitError
    (see ReadLimits), OSError from the file system, DeviceError where the device is missing or
    fails. PartialError if some files of a directory fail: the others are there, but no index.
    ValueError for an output that is the input or in it, and for less `max_memory` than the least
    that the message names.
    """
    if use_gpu and device == "cpu":
        device = "cuda"
    if device != "cpu" and dequantize:
        raise ValueError(f"dequantize=True is done by the CPU, but device is {device!r}")
    options = DecodeOptions(
        decode_budget(threads, max_memory), limits or ReadLimits(), verbose, dequantize, device
    )
    with watching(progress) as watch:
        if isinstance(input, (str, os.PathLike)) and os.path.isdir(input):
            return _decode_directory(os.fspath(input), output, options, resume, watch)
        started = time.perf_counter()
        if output is None:
            with open_reader(input, options.limits) as reader:
                _check_random_access(reader, options)
                return _decode_arrays(reader, options, watch)
        statistics = _decode_file(input, output, options, resume, watch)
        return {**statistics, "seconds": time.perf_counter() - started}


def _decode_file(
    input: Any, output: Any, options: DecodeOptions, resume: bool, progress: Progress | None
) -> dict[str, Any]:
    """Write the safetensors file of a wcodec file; returns statistics."""
    with open_reader(input, options.limits) as reader:
        _check_random_access(reader, options)
        if not isinstance(output, (str, os.PathLike)):
            return write_safetensors(reader, output, options, progress)
        if not hasattr(input, "read") and os.path.exists(output):
            if os.path.samefile(input, output):
                raise ValueError(f"output {os.fspath(output)!r} is the input itself")
            if resume and os.path.isfile(output):
                with contextlib.suppress(DiffersError), Comparison(os.fspath(output)) as comparison:
                    return write_safetensors(reader, comparison, options, progress)
        overlap = options.budget.overlap
        with (
            publish(output, force=True) as published,
            write_behind(published, behind=overlap) as file,
        ):
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
    if options.dequantize:
        edits = {
            item.source: _dequantising_edit(join(input, item.source), options)
            for item in plan.shards
            if item.source not in plan.broken
        }
        plan = edit_indexes(plan, edits, encoded=False)
    if output is None:
        return _decode_shards(plan, options, progress)
    if not isinstance(output, (str, os.PathLike)):
        raise ValueError("the output of a directory is a directory, expected a path")
    statistics = convert_directory(
        plan, os.fspath(output), convert, matches, resume=resume, progress=progress
    )
    return {**statistics, "seconds": time.perf_counter() - started}


def _dequantising_edit(path: str, options: DecodeOptions) -> ShardEdit:
    """What dequantising changes in the shard of a directory."""
    with Reader(path, limits=options.limits) as reader:
        quantised = quantised_tensors(reader.metadata.options, reader.layers)
        scales = [scale_name(name) for name in quantised]
        growth = sum(
            tensor.data_bytes - reader.layers[name].data_bytes for name, tensor in quantised.items()
        ) - sum(reader.layers[name].data_bytes for name in scales)
        return ShardEdit(scales, [], growth, len(reader.layers) - len(scales))


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


def _decode_arrays(
    reader: Reader | SequentialReader, options: DecodeOptions, progress: Progress | None
) -> dict[str, NDArray[Any]]:
    if options.device != "cpu" and isinstance(reader, Reader):
        return _decode_tensors(reader, options, progress)
    counter = Counter(progress, _total_bytes(reader))
    arrays: dict[str, NDArray[Any]] = {}
    if isinstance(reader, SequentialReader):
        for layer in reader:
            arrays[layer.head.name] = _decode_array(layer, arrays, options, counter)
        return arrays
    for entry, data in decode_layers(reader, reader.layers.values(), options.budget, counter.add):
        _say_layer(entry, options)
        arrays[entry.name] = as_array(data, entry.dtype, entry.shape)
    if options.dequantize:
        _dequantise_arrays(arrays, reader)
    return arrays


def _check_random_access(reader: Reader | SequentialReader, options: DecodeOptions) -> None:
    if isinstance(reader, SequentialReader) and (options.dequantize or options.device != "cpu"):
        raise ValueError(
            "dequantize=True and other devices need a file that can be read at any place, not a "
            "pipe"
        )


def _gpu_of(options: DecodeOptions) -> Device | None:
    """The GPU that the options ask for. Raises DeviceError where there is none."""
    if options.device == "cpu":
        return None
    try:
        import torch  # noqa: F401
    except ImportError:
        raise DeviceError(
            f"device {options.device!r} needs torch: pip install wcodec[torch]"
        ) from None
    from wcodec.cuda.device import device_for

    return device_for(options.device)


def _decode_tensors(
    reader: Reader, options: DecodeOptions, progress: Progress | None
) -> dict[str, Any]:
    """The torch tensors of all layers, on the device of the options."""
    gpu = _gpu_of(options)
    import torch

    from wcodec.torch_tensors import typed

    tensors = {}
    if gpu is None:
        for name, array in _decode_arrays(reader, options._replace(device="cpu"), progress).items():
            data = torch.from_numpy(array.reshape(-1).view(np.uint8)).to(options.device)
            tensors[name] = typed(data, reader.layers[name].dtype, reader.layers[name].shape)
        return tensors
    from wcodec.cuda.decoder import Decoder

    counter = Counter(progress, _total_bytes(reader))
    with Decoder(gpu, options.budget) as decoder:
        for name, entry in reader.layers.items():
            _say_layer(entry, options)
            tensors[name] = typed(decoder.decode_named(reader, name), entry.dtype, entry.shape)
            counter.add(entry.data_bytes)
        decoder.finish()
    return tensors


def _dequantise_arrays(arrays: dict[str, NDArray[Any]], reader: Reader) -> None:
    """Put floats in the place of quantised arrays, and take away the scales."""
    for name, tensor in quantised_tensors(reader.metadata.options, reader.layers).items():
        integers = arrays[name].reshape(-1)
        scales = arrays.pop(scale_name(name))
        values = np.empty(integers.size, numpy_dtype(tensor.dtype))
        start = 0
        for piece in dequantise(integers, 0, scales, tensor):
            values[start : start + len(piece)] = piece
            start += len(piece)
        arrays[name] = values.reshape(tensor.shape)


def _decode_array(
    layer: SequentialLayer,
    arrays: dict[str, NDArray[Any]],
    options: DecodeOptions,
    counter: Counter,
) -> NDArray[Any]:
    """The array of a layer that a pipe gives; a reference has a copy of its target's, which is in
    `arrays`.
    """
    head = layer.head
    _say_layer(head, options)
    if head.kind == KIND_REFERENCE:
        data = arrays[head.target].reshape(-1).view(np.uint8).copy()
        counter.add(len(data))
    else:
        data = batch.aligned_empty(head.data_bytes)
        for window in decode_windows(layer, options.budget, data):
            counter.add(len(window))
    return as_array(data, head.dtype, head.shape)


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
    quantised = {}
    if options.dequantize and isinstance(reader, Reader):
        quantised = quantised_tensors(reader.metadata.options, reader.layers)
    header = _safetensors_header(reader, quantised).encode("utf-8")
    _write_all(file, len(header).to_bytes(8, "little") + header)
    parsed = parse_header(header)
    tensors = parsed.tensors
    counter = Counter(progress, 0 if isinstance(reader, SequentialReader) else parsed.data_bytes)
    if quantised:
        assert isinstance(reader, Reader)
        pieces = _dequantised_in_order(reader, tensors, quantised, options)
    else:
        pieces = _data_in_order(reader, tensors, options)
    for data in pieces:
        _write_all(file, data.data)
        counter.add(len(data))
    output_bytes = 8 + len(header) + counter.done
    if options.verbose:
        say(size_change(reader.file_bytes, output_bytes))
    return {
        "input_bytes": reader.file_bytes,
        "output_bytes": output_bytes,
        "n_layers": len(tensors),
    }


def _write_all(file: Output, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while len(view):
        written = file.write(view)  # raw files may take a part; other objects say nothing
        view = view[len(view) if written is None else written :]


def _data_in_order(
    reader: Reader | SequentialReader, tensors: list[TensorEntry], options: DecodeOptions
) -> Iterator[NDArray[np.uint8]]:
    """The bytes of all layers, in the order of a safetensors header that must name exactly them;
    each piece is valid until budget.n_buffers more are asked for.

    A canonical header may have another order than the file, a source's header not.
    """
    memory = WindowMemory(options.budget)
    if isinstance(reader, SequentialReader):
        for tensor, layer in zip_longest(tensors, reader):
            _check_tensor(tensor, None if layer is None else layer.head)
            yield from _windows_of(reader, layer, options, memory)
        return
    entries = list(reader.layers.values())
    if reader.metadata.source_header is None:
        entries = [reader.layers[tensor.name] for tensor in tensors]
    for tensor, entry in zip_longest(tensors, entries):
        _check_tensor(tensor, entry)
    gpu = _gpu_of(options)
    if gpu is not None:
        yield from _data_from_device(reader, entries, options, gpu)
        return
    buffers = Buffers(options.budget.n_buffers, batch.aligned_empty)
    for run, starts, data in decode_runs(reader, entries, options.budget, buffers.take, 1):
        if data is None:
            yield from _windows_of(reader, reader.open_layer(run[0].name), options, memory)
            continue
        for entry in run:
            _say_layer(entry, options)
        yield data[: starts[-1] + run[-1].data_bytes]


def _data_from_device(
    reader: Reader, entries: list[IndexEntry], options: DecodeOptions, gpu: Device
) -> Iterator[NDArray[np.uint8]]:
    """The bytes of layers, decoded on a GPU, DEVICE_BYTES of them at once."""
    from wcodec.cuda.decoder import Decoder

    with Decoder(gpu, options.budget) as decoder:
        begin = 0
        while begin < len(entries):
            end, size = begin, 0
            while end < len(entries) and (end == begin or size <= DEVICE_BYTES):
                size += entries[end].data_bytes
                end += 1
            group = entries[begin:end]
            data = [decoder.decode_named(reader, entry.name) for entry in group]
            decoder.finish()
            for entry, on_device in zip(group, data, strict=True):
                _say_layer(entry, options)
                yield gpu.download(on_device)
            begin = end


def _dequantised_in_order(
    reader: Reader,
    tensors: list[TensorEntry],
    quantised: Mapping[str, PlainTensor],
    options: DecodeOptions,
) -> Iterator[NDArray[np.uint8]]:
    """The bytes of the tensors of a canonical header, floats for quantised layers; each piece is
    valid until budget.n_buffers more are asked for.
    """
    memory = WindowMemory(options.budget)
    for tensor in tensors:
        windows = _windows_of(reader, reader.open_layer(tensor.name), options, memory)
        plain = quantised.get(tensor.name)
        if plain is None:
            yield from windows
            continue
        layer = reader.open_layer(scale_name(tensor.name))
        parts = [window.copy() for window in _windows_of(reader, layer, options, memory)]
        scales = np.concatenate(parts).view(np.float32)
        start = 0
        for window in windows:
            for piece in dequantise(window.view(np.int8), start, scales, plain):
                yield piece.view(np.uint8)
            start += len(window)


def _windows_of(
    reader: Reader | SequentialReader,
    layer: Layer | SequentialLayer,
    options: DecodeOptions,
    memory: WindowMemory,
) -> Iterator[NDArray[np.uint8]]:
    _say_layer(layer.head, options)
    if layer.head.kind == KIND_REFERENCE:
        layer = _target_of(reader, layer.head)
    yield from decode_windows(layer, options.budget, memory=memory)


def _check_tensor(tensor: TensorEntry | None, layer: LayerHead | IndexEntry | None) -> None:
    """Raise CorruptError unless a tensor of the header and a layer are the same."""
    if layer is None:
        assert tensor is not None
        raise CorruptError(
            f"layer {tensor.name!r}: named by the source's header, but not in the file"
        )
    if tensor is None:
        raise CorruptError(f"layer {layer.name!r}: not named by the source's header")
    found = (layer.name, layer.dtype, layer.shape, layer.data_bytes)
    wanted = (tensor.name, tensor.dtype, tensor.shape, tensor.data_bytes)
    if found != wanted:
        raise CorruptError(f"layer {layer.name!r}: is {found}, the source's header says {wanted}")


def _say_layer(layer: LayerHead | IndexEntry, options: DecodeOptions) -> None:
    if options.verbose:
        coding = (
            f"the same as {layer.target}"
            if layer.kind == KIND_REFERENCE
            else batch.CODING_NAMES[layer.family]
        )
        say(f"{layer.name}  {layer.dtype} {list(layer.shape)}  {coding}  {layer.data_bytes} bytes")


def _safetensors_header(
    reader: Reader | SequentialReader, quantised: Mapping[str, PlainTensor]
) -> str:
    """The header of the file to write: the source's own, else a canonical one."""
    if reader.metadata.source_header is not None:
        return reader.metadata.source_header
    if isinstance(reader, SequentialReader):
        raise LimitError(
            "file: made of arrays, so its safetensors header follows from the index at its end; "
            "decode it from a file, or into arrays"
        )
    tensors = without_scales(reader.layers.values(), quantised)
    return canonical_header(tensors, reader.metadata.metadata)


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
    return _decode_only_layer(Reader(BytesInput(data)), out, threads)


def decode_layer_standalone(
    path: Path, *, out: NDArray[Any] | None = None, threads: int | None = None
) -> NDArray[Any]:
    """Decode a wcodec file of one layer, as encode_layer_standalone writes it; otherwise like
    decode_array.
    """
    with Reader(path) as reader:
        return _decode_only_layer(reader, out, threads)


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
