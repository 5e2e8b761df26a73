# SPDX-License-Identifier: Apache-2.0
"""wcodec and its peers behind one call shape: a dict of named arrays in memory -> encoded bytes ->
newly allocated arrays or bytes.

Peers code one array a call, with their defaults where nothing else is said. An array of a dtype
that a peer has no coding for stays as it is and counts with its size; where that is the largest
part of a case, the peer has no figure for it.

zipnn changes the memory it is given (0.5.4, bf16 and fp32: the sign bit is rotated in place, even
of `bytes`), so every codec is handed copies made outside the measured time.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import lzma
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard

import wcodec.numpy
from wcodec.codec.batch import bytes_file
from wcodec.dtypes import dtype_name

Arrays = dict[str, np.ndarray]
SLOW_LEVEL = 19


@dataclass(frozen=True)
class Codec:
    """`encode` takes a dict of arrays and returns bytes objects; `decode` takes those."""

    name: str
    encode: Callable[[Arrays], list[Any]]
    decode: Callable[[list[Any]], Any]
    supports: Callable[[str], bool] = lambda dtype: True
    slow: bool = False  # encoded once, for its ratio
    shapes: tuple[str, ...] = ("joined", "tensors")


# --- wcodec


def wcodec_codec(threads: int, verify: bool) -> Codec:
    def encode(arrays: Arrays) -> list[bytes]:
        # What wcodec.numpy.save does, which always verifies.
        file = bytes_file(sum(array.nbytes for array in arrays.values()))
        wcodec.encode_checkpoint(arrays, file, threads=threads, verify=verify, duplicates=True)
        file.truncate()
        return [file.getvalue()]

    def decode(encoded: list[bytes]) -> Arrays:
        return wcodec.numpy.load(encoded[0], threads=threads)

    return Codec("wcodec" if verify else "wcodec verify=False", encode, decode)


# --- peers: functions of one flat array


def each_array(
    name: str,
    encode: Callable[[np.ndarray, str], Any],
    decode: Callable[[Any, str], Any],
    dtypes: set[str] | None = None,
    slow: bool = False,
    shapes: tuple[str, ...] = ("joined", "tensors"),
) -> Codec:
    """A codec that is called for each array; an array it has no coding for is copied."""

    def supports(dtype: str) -> bool:
        return dtypes is None or dtype in dtypes

    def encode_all(arrays: Arrays) -> list[Any]:
        named = [(array.reshape(-1), dtype_name(array.dtype)) for array in arrays.values()]
        return [
            (encode(flat, dtype) if supports(dtype) else flat.tobytes(), dtype)
            for flat, dtype in named
        ]

    def decode_all(encoded: list[Any]) -> list[Any]:
        return [decode(data, t) if supports(t) else bytearray(data) for data, t in encoded]

    return Codec(name, encode_all, decode_all, supports, slow, shapes)


def zstd_codec(threads: int, level: int) -> Codec:
    """zstd of the plain bytes. It decodes on one thread."""
    workers = threads if threads > 1 else 0
    return each_array(
        f"zstd -{level}",
        lambda flat, _: zstandard.ZstdCompressor(level=level, threads=workers).compress(
            flat.view(np.uint8).data
        ),
        lambda data, _: zstandard.ZstdDecompressor().decompress(data),
        slow=level == SLOW_LEVEL,
        shapes=("file",) if level == SLOW_LEVEL else ("joined", "tensors", "file"),
    )


def zipnn_codec(threads: int) -> Codec:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what zipnn uses
        zipnn = importlib.import_module("zipnn")
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F8_E4M3": "float8_e4m3fn"}

    def coder(dtype: str) -> Any:
        return zipnn.ZipNN(input_format="byte", bytearray_dtype=names[dtype], threads=threads)

    return each_array(
        "zipnn",
        lambda flat, dtype: coder(dtype).compress(flat.view(np.uint8).data),
        lambda data, dtype: coder(dtype).decompress(data),
        set(names),
    )


def openzl_codec(entropy: str) -> Codec:
    """Floats are split into exponents and the rest; `entropy` (Entropy: OpenZL's choice, or Fse)
    codes the exponents, and bytes. For the rest the graph with the best ratio on MiniLM was taken.
    """
    zl = importlib.import_module("openzl.ext")
    splits = {
        "BF16": (zl.nodes.BFloat16Deconstruct, "Store", np.uint16),
        "F16": (zl.nodes.Float16Deconstruct, "Entropy", np.uint16),
        "F32": (zl.nodes.Float32Deconstruct, "Compress", np.uint32),
    }

    def typed(flat: np.ndarray, dtype: str) -> Any:
        if flat.itemsize == 1:
            return zl.Input(zl.Type.Serial, flat.view(np.uint8))
        return zl.Input(zl.Type.Numeric, flat.view(splits[dtype][2]) if dtype in splits else flat)

    def start(compressor: Any, dtype: str, size: int) -> Any:
        coder = getattr(zl.graphs, entropy)()
        if dtype in splits:
            split, rest, _ = splits[dtype]
            return split()(compressor, getattr(zl.graphs, rest)(), coder)
        if size == 1:
            return coder(compressor)
        return getattr(zl.graphs, "Entropy" if size == 2 else "Compress")()(compressor)

    def encode(flat: np.ndarray, dtype: str) -> Any:
        compressor = zl.Compressor()
        compressor.select_starting_graph(start(compressor, dtype, flat.itemsize))
        context = zl.CCtx()
        context.ref_compressor(compressor)
        context.set_parameter(zl.CParam.FormatVersion, zl.MAX_FORMAT_VERSION)
        return context.compress([typed(flat, dtype)])

    def decode(data: Any, _: str) -> Any:
        return zl.DCtx().decompress(data)[0].content.as_nparray()

    return each_array("openzl" if entropy == "Entropy" else "openzl fse", encode, decode)


def pcodec_codec(level: int = 8) -> Codec:
    """Level 8 is its default, 12 its best; bf16 and fp8 as unsigned integers, which it takes for
    numbers.
    """
    pcodec = importlib.import_module("pcodec")
    standalone = importlib.import_module("pcodec.standalone")
    words = {"BF16": np.uint16, "F8_E4M3": np.uint8}
    config = pcodec.ChunkConfig(compression_level=level, enable_8_bit=True)
    return each_array(
        "pcodec" if level == 8 else f"pcodec -{level}",
        lambda flat, dtype: standalone.simple_compress(
            flat.view(words.get(dtype, flat.dtype)), config
        ),
        lambda data, _: standalone.simple_decompress(data),
    )


def xz_codec() -> Codec:
    """xz at its default level."""
    return each_array(
        "xz",
        lambda flat, _: lzma.compress(flat.view(np.uint8).data),
        lambda data, _: lzma.decompress(data),
    )


def blosc2_codec(threads: int) -> Codec:
    """Its defaults: byte shuffle and zstd, here with the size of the elements."""
    blosc2 = importlib.import_module("blosc2")
    return each_array(
        "blosc2",
        lambda flat, _: blosc2.compress2(
            flat.view(np.uint8), typesize=flat.itemsize, nthreads=threads
        ),
        lambda data, _: blosc2.decompress2(data, nthreads=threads),
    )


def codecs(threads: int) -> tuple[list[Codec], list[str]]:
    """The codecs that can use `threads` threads, and a line on each that is not installed."""
    makers: dict[str, Callable[[], Codec]] = {
        "zipnn": lambda: zipnn_codec(threads),
        "blosc2": lambda: blosc2_codec(threads),
    }
    found = [wcodec_codec(threads, True), wcodec_codec(threads, False), zstd_codec(threads, 3)]
    if threads == 1:
        found.append(zstd_codec(threads, SLOW_LEVEL))
        makers["openzl"] = lambda: openzl_codec("Entropy")
        makers["openzl fse"] = lambda: openzl_codec("Fse")
        makers["pcodec"] = pcodec_codec
    made, missing = _installed(makers)
    return found + made, missing


def ratio_codecs() -> tuple[list[Codec], list[str]]:
    """The peers whose ratios are compared, called for one tensor after the other, and a line on
    each that is not installed.
    """
    return _installed(
        {
            "zipnn": lambda: zipnn_codec(1),
            "openzl": lambda: openzl_codec("Entropy"),
            "openzl fse": lambda: openzl_codec("Fse"),
            "zstd": lambda: zstd_codec(1, 3),
            "pcodec": lambda: pcodec_codec(12),
            "xz": xz_codec,
        }
    )


def _installed(makers: dict[str, Callable[[], Codec]]) -> tuple[list[Codec], list[str]]:
    found, missing = [], []
    for name, make in makers.items():
        try:
            found.append(make())
        except ImportError as error:
            missing.append(f"{name}: {error}")
    return found, missing


def versions() -> str:
    """The versions of wcodec and of all peers that are installed."""
    found = [f"wcodec {wcodec.__version__}", f"numpy {np.__version__}"]
    for name in ("zstandard", "zipnn", "openzl", "pcodec", "blosc2"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)
