# SPDX-License-Identifier: Apache-2.0
"""The encoding flow: source -> layers -> container. Read encode_checkpoint first, then
encode_tensors.

Memory is bounded by a few windows of at most 32 MiB, whatever the size of the source: a layer is
read, coded and written window by window.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from math import prod
from types import MappingProxyType
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wcodec._version import __version__
from wcodec.checkpoint import ShardEdit, edit_indexes, join, plan_encode
from wcodec.codec import batch
from wcodec.codec.spatial import SpatialOptions
from wcodec.container import LayerHead, Metadata, Reader, Writer
from wcodec.decode import DecodeOptions, decode_budget, write_safetensors
from wcodec.dequantise import QUANTISED, scale_name
from wcodec.directories import Comparison, DiffersError, convert_directory
from wcodec.dtypes import bits, data_bits
from wcodec.errors import FormatError
from wcodec.layer_encoder import (
    EncodeOptions,
    LayerEncoder,
    encode_ahead,
    encode_budget,
    is_small,
)
from wcodec.limits import ReadLimits
from wcodec.overlap import worker, write_behind
from wcodec.progress import Counter, Progress, say, size_change, watching
from wcodec.publication import publish
from wcodec.quantise import QUANT_TYPES, is_quantisable, metadata_of, quantise
from wcodec.safetensors_file import SafetensorsFile
from wcodec.sources import (
    ArrayTensor,
    Source,
    Tensor,
    find_duplicates,
    open_source,
    tensor_source,
)

Path = str | os.PathLike[str]


class _Request(NamedTuple):
    """The arguments of encode_checkpoint that go for every file."""

    options: EncodeOptions
    model_name: str | None
    metadata: Mapping[str, str]
    duplicates: bool
    max_memory: int | None
    verbose: bool
    quant_type: str | None

    def metadata_of(
        self, header: str | None, quantised: Mapping[str, Any] = MappingProxyType({})
    ) -> Metadata:
        """The metadata of the file made of a source with this header, or of a quantised one."""
        return Metadata(
            wcodec_version=__version__,
            model_name=self.model_name,
            options={
                "level": self.options.level,
                "block_elements": self.options.block_elements,
                **self.options.spatial.recorded(),
                **quantised,
            },
            metadata=dict(self.metadata),
            duplicates=self.duplicates,
            source_header=header,
        )

    def quantise(self, source: Source) -> tuple[Source, Metadata]:
        """A source to encode and the metadata of its file."""
        if self.quant_type is None:
            return source, self.metadata_of(source.header)
        quantised, dtypes = quantise(source)
        options = {"quant_type": self.quant_type, QUANTISED: dtypes}
        metadata = self.metadata_of(None, options)
        return quantised, metadata._replace(
            metadata={**metadata_of(source.header), **metadata.metadata}
        )


def encode_checkpoint(
    input: Path | IO[bytes] | Mapping[str, NDArray[Any]] | Iterable[tuple[str, NDArray[Any]]],
    output: Path | IO[bytes],
    *,
    level: str = "default",
    tile_size: int = 16,
    predictors: Iterable[str] | None = None,
    transforms: Iterable[str] | None = None,
    block_elements: int | None = None,
    model_name: str | None = None,
    quant_type: str | None = None,
    metadata: Mapping[str, str] | None = None,
    threads: int | None = None,
    max_memory: int | None = None,
    verify: bool = True,
    duplicates: bool | None = None,
    all_files: bool = False,
    resume: bool = False,
    verbose: bool = False,
    progress: Progress | type | None = None,
) -> dict[str, Any]:
    """Encode a checkpoint into a wcodec file, or a directory into a wcodec directory; losslessly
    unless `quant_type` is given.

    `input` is the path of a safetensors file; a binary file object that gives one, read once front
    to back; a dict of numpy arrays (ml_dtypes for bfloat16 and fp8); an iterable of (name, array),
    of which one is held at a time; or the path of a directory. `output` is a path, which appears
    whole or not at all (an existing file is replaced), or any object with write(bytes), which is
    never sought.

    Of a directory, and what is below it, every safetensors file becomes a wcodec file, the index of
    the shards is rewritten, other files are copied, and links are followed. Redundant weight files
    (checkpoint.REDUNDANT_FILES) are left out unless `all_files`. A file of the output directory
    that exists is replaced, or with `resume` kept if it has the same options and decodes to the
    very bytes of its source; both are read in full to know that. `resume` does so for one file too.

    `level="max"` makes files smaller at a tenth of the speed: every coding that can win is tried on
    a sample of each tensor, and blocks are larger. `tile_size` (4, 8, 16, 32 or 64), `predictors`
    (some of none, left, top, avg, planar, median) and `transforms` (some of none, dct, adst,
    hadamard; only in tiles from 8 up) restrict what the spatial coding may use (default: 16 and
    all).

    `quant_type="int8"` quantises first, which loses precision: of each tensor of F16, BF16 or F32
    with two axes or more, `name` becomes an I8 tensor and `name.scale` an F32 one with a scale for
    each index of the first axis (largest magnitude / 127); others stay. Decoding gives these, or
    with dequantize=True floats again. The input is a path or a dict then.

    `block_elements` is the aimed number of elements of a block (default 131072, at level max
    1048576). `metadata` maps
    text to text; for arrays it also becomes the `__metadata__` of the safetensors file that
    decoding writes. With `verify` every block is decoded again and compared before it leaves.
    `duplicates` stores layers with equal bytes of a file once (default: only if `output` is a path,
    because a reader of a pipe cannot go back, and `input` can be read again). `max_memory` bounds
    what is held at once, in bytes beside arrays of the caller's and the index; the default is 512
    MiB, and it changes nothing in the output. `progress` is called with (bytes done, bytes in all),
    or is a class like tqdm.tqdm. `verbose` prints a line a layer to stderr.

    Returns statistics: `input_bytes`, `output_bytes`, `compression_ratio`, `seconds`, `layers` (a
    dict each: name, dtype, shape, coding, data_bytes, bytes, bits_per_weight; none if the file was
    kept). For a directory, instead of `layers`: `files` (a dict each: source, target, input_bytes,
    output_bytes, kept), `copied` and `left_out`.

    Raises FormatError if the input is not a valid safetensors file, ValueError or TypeError for
    wrong arguments (and for less `max_memory` than the least that the message names),
    OSError from the file
    system. Nothing is left behind then; `resume` leaves the shards that are finished. PartialError
    if some files of a directory fail: the others are there, but no index.
    """
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata maps {key!r} to {value!r}, expected text to text")
    if quant_type is not None and quant_type not in QUANT_TYPES:
        raise ValueError(f"quant_type is {quant_type!r}, expected None or {QUANT_TYPES[0]!r}")
    if quant_type is not None and resume:
        raise ValueError("resume compares with the source, which a quantised file does not give")
    options = EncodeOptions.of(
        level=level,
        spatial=SpatialOptions.of(tile_size, predictors, transforms),
        block_elements=block_elements,
        verify=verify,
        budget=encode_budget(threads, max_memory),
    )
    path = os.fspath(output) if isinstance(output, (str, os.PathLike)) else None
    once = not isinstance(input, (str, os.PathLike, Mapping))
    if duplicates and once:
        raise ValueError("duplicates=True needs an input that can be read again")
    if duplicates is None:
        duplicates = path is not None and not once
    request = _Request(
        options, model_name, dict(metadata or {}), duplicates, max_memory, verbose, quant_type
    )
    if isinstance(input, (str, os.PathLike)) and os.path.isdir(input):
        if path is None:
            raise ValueError("the output of a directory is a directory, expected a path")
        with watching(progress) as watch:
            return _encode_directory(os.fspath(input), path, request, all_files, resume, watch)
    with watching(progress) as watch:
        return _encode_file(input, output, request, resume, watch)


def _encode_file(
    input: Any, output: Any, request: _Request, resume: bool, progress: Progress | None
) -> dict[str, Any]:
    """Encode anything but a directory; the output and the results of encode_checkpoint."""
    started = time.perf_counter()
    is_path = isinstance(input, (str, os.PathLike))
    with ExitStack() as stack:
        target = output
        if isinstance(output, (str, os.PathLike)):
            path = os.fspath(output)
            if is_path and os.path.exists(path):
                if os.path.samefile(input, path):
                    raise ValueError(f"output {path!r} is the input itself")
                if resume and os.path.isfile(path) and _gives_back(path, input, request, progress):
                    sizes = os.path.getsize(input), os.path.getsize(path)
                    return _statistics([], *sizes, time.perf_counter() - started, request.verbose)
            source = stack.enter_context(open_source(input))
            overlap = request.options.budget.overlap
            published = stack.enter_context(publish(path, force=True))
            target = stack.enter_context(write_behind(published, behind=overlap, small_waits=False))
        else:
            source = stack.enter_context(open_source(input))
        to_encode, metadata = request.quantise(source)
        rows, output_bytes = encode_tensors(
            to_encode, target, metadata, request.options, request.verbose, progress
        )
    seconds = time.perf_counter() - started
    return _statistics(rows, source.file_bytes, output_bytes, seconds, request.verbose)


def _encode_directory(
    input: str,
    output: str,
    request: _Request,
    all_files: bool,
    resume: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    started = time.perf_counter()

    def convert(source: str, target: str, progress: Progress | None) -> int:
        statistics = _encode_file(source, target, request, False, progress)
        return int(statistics["output_bytes"])

    def matches(source: str, target: str, progress: Progress | None) -> bool:
        return _gives_back(target, source, request, progress)

    plan = plan_encode(input, all_files=all_files)
    if request.quant_type is not None:
        edits = {
            item.target: _quantising_edit(join(input, item.source))
            for item in plan.shards
            if item.source not in plan.broken
        }
        plan = edit_indexes(plan, edits, encoded=True)
    statistics = convert_directory(plan, output, convert, matches, resume=resume, progress=progress)
    ratio = statistics["input_bytes"] / statistics["output_bytes"]
    seconds = time.perf_counter() - started
    return {**statistics, "compression_ratio": ratio, "seconds": seconds}


def _quantising_edit(path: str) -> ShardEdit:
    """What quantising changes in the shard of a directory."""
    with SafetensorsFile(path) as file:
        matrices = [tensor for tensor in file.tensors if is_quantisable(tensor)]
        growth = sum(
            prod(tensor.shape) + 4 * tensor.shape[0] - tensor.data_bytes for tensor in matrices
        )
        added = [scale_name(tensor.name) for tensor in matrices]
        return ShardEdit([], added, growth, len(file.tensors) + len(added))


def _gives_back(path: str, source: Path, request: _Request, progress: Progress | None) -> bool:
    """Whether the file at `path` was made with the options of the request and decodes to just the
    bytes of `source`.

    Nothing less would do: fine-tunes of one model agree in names, header and sizes.
    """
    with SafetensorsFile(source) as file:
        expected = request.metadata_of(file.header.decode("utf-8"))
    threads = request.options.budget.threads
    options = DecodeOptions(decode_budget(threads, request.max_memory), ReadLimits())
    try:
        with Reader(path) as reader:
            if reader.metadata != expected:
                return False
            with Comparison(os.fspath(source)) as comparison:
                write_safetensors(reader, comparison, options, progress)
            reader.check_file()
    except (FormatError, DiffersError):
        return False
    return True


def encode_tensors(
    source: Source,
    target: IO[bytes],
    metadata: Metadata,
    options: EncodeOptions,
    verbose: bool = False,
    progress: Progress | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """Write a whole container; returns the statistics of each layer, and the size of the file."""
    targets = {}
    if metadata.duplicates and isinstance(source.tensors, Sequence):
        targets = find_duplicates(source.tensors)
    counter = Counter(progress, source.data_bytes)
    rows = []
    ahead = source.again and options.budget.overlap
    together = ahead and options.budget.threads > 1  # small ones
    own = [tensor for tensor in source.tensors if tensor.name not in targets] if ahead else []
    small = [tensor for tensor in own if is_small(tensor)] if together else []
    following = iter([tensor for tensor in own if not (together and is_small(tensor))])
    next(following, None)
    with (
        closing(encode_ahead(small, options)) as small_layers,
        worker("wcodec-read") as begin,
        Writer(target, metadata=metadata) as writer,
    ):
        encoder = LayerEncoder(writer, options, counter, begin if ahead and source.ahead else None)
        for tensor in source.tensors:
            if tensor.name in targets:
                entry = writer.add_reference(_reference_head(tensor, targets[tensor.name]))
                coding = "reference"
                counter.add(tensor.data_bytes)
            elif together and is_small(tensor):
                entry, coding = encoder.write(next(small_layers))
            else:
                entry, coding = encoder.encode(tensor, next(following, None))
            row = _layer_row(tensor, coding, entry.record_bytes)
            rows.append(row)
            if verbose:
                say(format_row(row))
            del tensor  # of a stream of arrays one is held at a time
        source.check_end()
    return rows, writer.file_bytes


def _reference_head(tensor: Tensor, target: str) -> LayerHead:
    return LayerHead.reference(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        data_bytes=tensor.data_bytes,
        target=target,
    )


def _layer_row(tensor: Tensor, coding: str, record_bytes: int) -> dict[str, Any]:
    elements = prod(tensor.shape) if bits(tensor.dtype) else tensor.data_bytes
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "coding": coding,
        "data_bytes": tensor.data_bytes,
        "bytes": record_bytes,
        "bits_per_weight": 8 * record_bytes / elements if elements else None,
    }


def format_row(row: Mapping[str, Any]) -> str:
    """One line about a layer: name, dtype, shape, coding, sizes in bytes, bits a weight."""
    bits_per_weight = row["bits_per_weight"]
    return (
        f"{row['name']}  {row['dtype']} {row['shape']}  {row['coding']}  "
        f"{row['data_bytes']} -> {row['bytes']}"
        + (f"  {bits_per_weight:.3f} bits a weight" if bits_per_weight is not None else "")
    )


def _statistics(
    rows: list[dict[str, Any]], input_bytes: int, output_bytes: int, seconds: float, verbose: bool
) -> dict[str, Any]:
    if input_bytes == 0:  # not a file: the arrays' own bytes
        input_bytes = sum(row["data_bytes"] for row in rows)
    ratio = input_bytes / output_bytes
    if verbose:
        say(size_change(input_bytes, output_bytes))
    return {
        "input_bytes": input_bytes,
        "output_bytes": output_bytes,
        "compression_ratio": ratio,
        "seconds": seconds,
        "layers": rows,
    }


def encode_layer_standalone(
    array: NDArray[Any],
    path: Path,
    *,
    name: str = "weight",
    level: str = "default",
    tile_size: int = 16,
    predictors: Iterable[str] | None = None,
    transforms: Iterable[str] | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Encode one numpy array of any shape into a wcodec file of one layer; the options and the
    statistics are those of encode_checkpoint.

    >>> import numpy as np, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "weight.wcodec")
    >>> encode_layer_standalone(np.zeros((3, 4), np.float32), path)["layers"][0]["coding"]
    'constant'
    """
    return encode_checkpoint(
        {name: array},
        path,
        level=level,
        tile_size=tile_size,
        predictors=predictors,
        transforms=transforms,
        threads=threads,
    )


def encode_array(
    array: NDArray[Any],
    *,
    dtype: str | None = None,
    level: str = "default",
    tile_size: int = 16,
    predictors: Iterable[str] | None = None,
    transforms: Iterable[str] | None = None,
    threads: int | None = None,
) -> bytes:
    """Encode one numpy array; the bytes are a wcodec file of one layer named "weight".

    `dtype` names a safetensors dtype that numpy has not: F4, F6_E2M3 or F6_E3M2, with `array`
    holding the packed bytes as uint8 (the last axis then counts bytes), or any other dtype of the
    array's own element size. Raises ValueError if it does not fit. The other options are those of
    encode_checkpoint.
    """
    spatial = SpatialOptions.of(tile_size, predictors, transforms)
    budget = encode_budget(threads)
    options = EncodeOptions.of(level, spatial, None, True, budget)
    tensor = ArrayTensor("weight", array) if dtype is None else _typed_tensor(array, dtype)
    file = batch.bytes_file(tensor.data_bytes)
    encode_tensors(tensor_source([tensor]), file, Metadata(wcodec_version=__version__), options)
    file.truncate()
    return file.getvalue()


def _typed_tensor(array: NDArray[Any], dtype: str) -> ArrayTensor:
    array = np.asarray(array)
    size = bits(dtype)
    if size is None:
        raise ValueError(f"dtype {dtype!r} is not one of safetensors")
    shape = array.shape
    if size % 8:
        if array.dtype != np.uint8 or array.ndim == 0 or shape[-1] * 8 % size:
            raise ValueError(
                f"dtype {dtype!r} needs a packed uint8 array whose last axis holds whole elements, "
                f"found {array.dtype} of shape {shape}"
            )
        shape = (*shape[:-1], shape[-1] * 8 // size)
    if data_bits(dtype, shape) != array.nbytes * 8:
        raise ValueError(f"dtype {dtype!r} has {size} bits, the array {array.dtype} has not")
    return ArrayTensor("weight", array, dtype, shape)
