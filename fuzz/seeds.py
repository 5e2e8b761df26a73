# SPDX-License-Identifier: Apache-2.0
"""Write seeds for the fuzz targets. Of blocks: one of each kind in the golden files, and some of
its changes. Of readers: small files with hostile fields. Usage: seeds.py DIRECTORY
"""

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.container_builder import build, hostile_values, sound_layers  # noqa: E402
from support.golden_blocks import HEADER_BYTES, golden_blocks, mutations  # noqa: E402

from wcodec import _core  # noqa: E402
from wcodec.container import Metadata, Writer  # noqa: E402

TARGETS = {0: "block_raw", 2: "block_rans16", 3: "block_rans32", 4: "block_spatial"}


def blocks() -> Iterator[tuple[str, bytes]]:
    for block in golden_blocks():
        target = TARGETS.get(block.head.family)
        if target is None or block.is_map:
            continue
        shape = b"".join((n - 1).to_bytes(2, "little") for n in (block.rows, block.cols))
        log2 = block.head.unit_bytes.bit_length() - 1
        for data in (block.data, *islice(mutations(block, 997), 50)):
            head = data[4:7] + bytes([log2]) + shape
            yield target, head + data[HEADER_BYTES:][: len(block.payload)]


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
    for target, seeds in (
        *((target, [seed]) for target, seed in blocks()),
        ("container", containers()),
        ("safetensors", safetensors_files()),
    ):
        directory = Path(sys.argv[1], target)
        directory.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            (directory / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)


if __name__ == "__main__":
    main()
