# SPDX-License-Identifier: Apache-2.0
"""Write seeds for the fuzz targets. Of blocks: one of each kind in the golden files, and some of
its changes; rans16 payloads of every form, and what the encoder makes of every dtype. Of readers:
small files with hostile fields. Usage: seeds.py DIRECTORY
"""

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
from ml_dtypes import bfloat16, float8_e4m3fn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.container_builder import build, hostile_values, sound_layers  # noqa: E402
from support.golden_blocks import HEADER_BYTES, golden_blocks, mutations  # noqa: E402
from support.rans16_streams import (  # noqa: E402
    FIELD_MAPS,
    all_values,
    random_payload,
    random_table,
)

import wcodec  # noqa: E402
from wcodec import _core  # noqa: E402
from wcodec.codec.plan import LEVELS  # noqa: E402
from wcodec.codec.spatial import PREDICTORS  # noqa: E402
from wcodec.container import Metadata, Reader, Writer  # noqa: E402
from wcodec.windows import grid_of  # noqa: E402

TARGETS = {0: "block_raw", 2: "block_rans16", 3: "block_rans32", 4: "block_spatial"}


def blocks() -> Iterator[tuple[str, bytes]]:
    for block in golden_blocks():
        target = TARGETS.get(block.head.family)
        if target is None or block.is_map:
            continue
        for data in (block.data, *islice(mutations(block, 997), 50)):
            head = seed_of(*data[4:7], block.head.unit_bytes, block.rows, block.cols)
            yield target, head + data[HEADER_BYTES:][: len(block.payload)]


def seed_of(coding: int, form: int, n_streams: int, w: int, rows: int, cols: int) -> bytes:
    """What stands before a payload."""
    shape = b"".join((n - 1).to_bytes(2, "little") for n in (rows, cols))
    return bytes([coding, form, n_streams, w.bit_length() - 1]) + shape


def rans16_payloads() -> Iterator[tuple[str, bytes]]:
    random = np.random.default_rng(0)
    for form, field_map in FIELD_MAPS.items():
        for n_symbols in (2, 9, 40, 64):
            for n_streams in (1, 2, 4):
                n_symbols = min(n_symbols, len(all_values(form)))
                table = random_table(random, form, n_symbols=n_symbols, has_escape=True)
                payload, units = random_payload(random, form, 700, n_streams, table=table)
                head = seed_of(2, form, n_streams, field_map.unit_bytes, 1, len(units))
                yield "block_rans16", head + payload


def encoded_blocks() -> Iterator[tuple[str, bytes]]:
    """Blocks of small layers of many dtypes, at both levels."""
    random = np.random.default_rng(0)
    normal = random.standard_normal((24, 40))
    noise = random.integers(0, 2, (64, 128))
    slope = np.cumsum(np.cumsum(random.integers(-2, 3, (64, 128)), axis=1), axis=0)
    wave = 90 * np.sin(np.arange(960) / 40).reshape(24, 40)
    arrays = [normal.astype(dtype) for dtype in (bfloat16, "f2", "f4", "f8", float8_e4m3fn)]
    arrays += [abs(normal).astype("f4"), normal.astype(bfloat16).astype("f4")]
    for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"):
        arrays += [(scale * normal).astype(dtype) for scale in (3, 20, 90, 5000)]
        arrays += [image.astype(dtype) for image in (100 + wave, slope, 20 * slope)]
    files = [wcodec.encode_array(array, level=level) for array in arrays for level in LEVELS]
    files += [
        wcodec.encode_array((noise + slope).astype(dtype), predictors=[predictor], tile_size=4)
        for dtype in ("i1", "i2", "i4")
        for predictor in PREDICTORS
    ]
    for file in files:
        layer = Reader(io.BytesIO(file)).open_layer("weight")
        grid = grid_of(layer.head)
        if layer.head.family not in TARGETS or grid.row_groups or grid.n_blocks != 1:
            continue
        header = layer.headers[0]
        payload = layer.take(1).data[HEADER_BYTES:][: int(header["payload_bytes"])]
        fields = (int(header[name]) for name in ("coding", "form", "n_streams"))
        head = seed_of(*fields, grid.unit_bytes, grid.rows, grid.cols)
        yield TARGETS[layer.head.family], head + payload.tobytes()


def containers() -> Iterator[bytes]:
    """Files whose checksums are all 0."""
    for built in (build(), build(sound_layers()), build([])):
        zeros = {place for seal in built.seals for place in (seal.offset, *seal.copies)}
        for name in built.fields:
            for value in islice(hostile_values(built, name), 1):
                data = bytearray(built.with_field(name, value))
                for place in zeros:
                    data[place : place + 4] = bytes(4)
                yield bytes(data)
    _core.crc32 = lambda data, start=0: 0
    _core.crc32_combine = lambda first, second, second_bytes: 0
    file = io.BytesIO()
    Writer(file, metadata=Metadata("0.1.0", source_header="{}" + " " * 5000)).close()  # zstd
    yield file.getvalue()


def safetensors_files() -> Iterator[bytes]:
    tensors = {"a": ("F32", [2], 0, 8), "b": ("F4", [2, 2], 8, 10), "c": ("I8", [0], 10, 10)}
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        for name, (dtype, shape, begin, end) in tensors.items()
    }
    for extra in ({}, {"__metadata__": {"k": "v"}}, {"__metadata__": None}, {"d": {}}):
        text = json.dumps(header | extra).encode()
        yield len(text).to_bytes(8, "little") + text + bytes(10)


def main() -> None:
    of_blocks = chain(blocks(), rans16_payloads(), encoded_blocks())
    for target, seeds in (
        *((target, [seed]) for target, seed in of_blocks),
        ("container", containers()),
        ("safetensors", safetensors_files()),
    ):
        directory = Path(sys.argv[1], target)
        directory.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            (directory / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)


if __name__ == "__main__":
    main()
