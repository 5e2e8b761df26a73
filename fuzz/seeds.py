# SPDX-License-Identifier: Apache-2.0
"""Write seeds for the fuzz targets. Of blocks: one of each kind in the golden files, with a change
of each byte for each reason for which it is refused; rans16 payloads of every form, and what the
encoder makes of every dtype. Of readers: small files with hostile fields. Usage: seeds.py DIRECTORY
"""

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import zstandard
from ml_dtypes import bfloat16, float8_e4m3fn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support import rans32_blocks as rans32  # noqa: E402
from support import spatial_blocks as spatial  # noqa: E402
from support.container_builder import (  # noqa: E402
    METADATA,
    Block,
    Built,
    LayerSpec,
    build,
    hostile_values,
    sample_layers,
    sound_layers,
)
from support.golden_blocks import (  # noqa: E402
    HEADER_BYTES,
    Copies,
    GoldenBlock,
    batched,
    golden_blocks,
    mutations,
    resized,
)
from support.rans16_streams import (  # noqa: E402
    FIELD_MAPS,
    all_values,
    random_payload,
    random_table,
)

import wcodec  # noqa: E402
from wcodec import _core  # noqa: E402
from wcodec.codec import batch  # noqa: E402
from wcodec.codec.plan import LEVELS  # noqa: E402
from wcodec.codec.spatial import PREDICTORS  # noqa: E402
from wcodec.container import LayerHead, Metadata, Reader, Writer  # noqa: E402
from wcodec.windows import grid_of  # noqa: E402

TARGETS = {0: "block_raw", 2: "block_rans16", 3: "block_rans32", 4: "block_spatial"}


LAYOUTS = 8  # rows apart, rows by an index, past the caches: as bits from bit 2 of `how` on
N_DAMAGES = 5  # from bit 5 on
MAX_BYTES = 4096  # of a block from the golden files


def blocks() -> Iterator[tuple[str, bytes]]:
    """Blocks of each kind in each layout; with a change of each byte for each reason to refuse it,
    but for those that are like others; and payloads that no encoder makes.
    """
    golden = [block for block in golden_blocks() if len(block.data) <= MAX_BYTES]
    for i, block in enumerate((*blocks_of_rans32(), *blocks_of_spatial(), *golden)):
        yield seed_of(block, block.data)
        if block.data[6] <= 1 and (block.data[4] != batch.RANS32 or i < 6):  # streams
            for data in refused(block):
                yield seed_of(block, data)
        for layout in range(LAYOUTS):
            yield seed_of(block, block.data, layout << 2)
        for damage in range(1, N_DAMAGES + 1):
            for layout in (16, 20):
                yield seed_of(block, block.data, damage << 5 | layout)
    for block in (*odd_blocks_of_rans32(), *odd_blocks_of_spatial()):
        yield seed_of(block, block.data)


def seed_of(block: GoldenBlock, data: bytes, how: int = 0) -> tuple[str, bytes]:
    """The target and the input that has `data` in place of the block."""
    target = TARGETS.get(block.head.family, "block_raw")
    if block.is_map:
        target = "block_raw"
    head = head_of(*data[4:7], block.head.unit_bytes, block.rows, block.cols, how)
    size = int.from_bytes(data[8:HEADER_BYTES], "little")
    return target, head + data[HEADER_BYTES:][:size]


def blocks_of_rans32() -> Iterator[GoldenBlock]:
    """Of random splits, alphabets, tables and classes, and of bytes without raw bits."""
    for seed in range(6):
        for w in (1, 2, 4, 8):
            units, encoded = rans32.random_block(seed, w, 7, 33)
            yield block_of(encoded, batch.RANS32, units)
    units = np.random.default_rng(0).integers(0, 90, (7, 99)).astype("u1")
    yield block_of(rans32.encode(units), batch.RANS32, units)


def odd_blocks_of_rans32() -> Iterator[GoldenBlock]:
    """Without a stream, and with an escape more or less."""
    for block in blocks_of_rans32():
        w = block.head.unit_bytes
        payload = rans32.Payload.of(batch.frame_block(batch.RANS32, 0, block.payload), w)
        size, n, escapes = min(w, 2), payload.n_escapes, payload.escapes
        yield with_payload(block, payload.with_(stream=b""))
        more = payload.with_(n_escapes=n + 1, escapes=escapes + bytes(size))
        yield with_payload(block, more)
        if n:
            less = payload.with_(n_escapes=n - 1, escapes=escapes[:-size])
            yield with_payload(block, less)


def blocks_of_spatial() -> Iterator[GoldenBlock]:
    """Of tiles that are alike, that have a byte each, and a stream."""
    random = np.random.default_rng(0)
    for tile_log2, rows, cols, dtype in (
        (2, 100, 160, "i1"),
        (3, 40, 52, "i1"),
        (4, 40, 52, "u2"),
        (6, 40, 52, "f4"),
        (3, 20, 52, "f4"),
    ):
        y, x = np.mgrid[:rows, :cols]
        image = np.where(x % 50 < 20, x * y // 90 - y, random.integers(-3, 3, x.shape))
        array = image.astype(dtype)
        yield block_of(spatial.encode(array, tile_log2), batch.SPATIAL, array)


def odd_blocks_of_spatial() -> Iterator[GoldenBlock]:
    """Without streams or tables, with tiles that are wrong, and with units of 8 bytes."""
    for block in blocks_of_spatial():
        payload = spatial.Payload.of(batch.frame_block(batch.SPATIAL, 0, block.payload))
        for changes in (
            {"stream": b""},
            {"tables": b"", "tiles": b"", "stream": b"", "raw": b""},
            {"tiles": payload.tiles[:-2]},
            {"tile_log2": 2, "tiles_coding": 0, "tiles": b"\x08"},
        ):
            yield with_payload(block, payload.with_(**changes))
    yield replace(block, head=block.head._replace(unit_bytes=8), cols=block.cols // 2)


def block_of(encoded: batch.Blocks, family: int, units: np.ndarray) -> GoldenBlock:
    rows, cols = units.shape
    head = LayerHead("w", "U8", (1,), 1, family=family, unit_bytes=units.itemsize)
    return GoldenBlock("made here", encoded.data.tobytes(), head, rows, cols)


def with_payload(block: GoldenBlock, payload: bytes) -> GoldenBlock:
    framed = batch.frame_block(block.head.family, block.data[5], payload)
    return replace(block, data=framed.data.tobytes())


def refused(block: GoldenBlock) -> Iterator[bytes]:
    """One change for each pair of a status and a byte among the first ones, or any later byte."""
    found = set()
    some = 1 + len(block.data) // 64
    tried = chain(islice(mutations(block), 800), mutations(block, 7 * some), resized(block, some))
    for variants in batched(tried):
        statuses, _ = Copies(block, variants).decode("scalar")
        for data, status in zip(variants, statuses.tolist(), strict=True):
            pairs = enumerate(zip(data[4:], block.data[4:], strict=False))
            place = next((i for i, (new, old) in pairs if new != old), 0)
            key = status, place if place < 64 else 64 + place // 256
            if key not in found:
                found.add(key)
                yield data


def head_of(
    coding: int, form: int, n_streams: int, w: int, rows: int, cols: int, how: int = 0
) -> bytes:
    """What stands before a payload."""
    shape = b"".join((n - 1).to_bytes(2, "little") for n in (rows, cols))
    return bytes([coding, form, n_streams, how | w.bit_length() - 1]) + shape


def rans16_payloads() -> Iterator[tuple[str, bytes]]:
    random = np.random.default_rng(0)
    for form, field_map in FIELD_MAPS.items():
        for n_symbols in (2, 9, 40, 64):
            for n_streams in (1, 2, 4):
                n_symbols = min(n_symbols, len(all_values(form)))
                table = random_table(random, form, n_symbols=n_symbols, has_escape=True)
                payload, units = random_payload(random, form, 700, n_streams, table=table)
                head = head_of(2, form, n_streams, field_map.unit_bytes, 1, len(units))
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
        head = head_of(*fields, grid.unit_bytes, grid.rows, grid.cols)
        yield TARGETS[layer.head.family], head + payload.tobytes()


BAD_JSON = (
    b"", b"[]", b"{}", b"{", b'{"a":1,"a":1}', b"[NaN]", b"[1e999]", b"[" + b"9" * 309 + b"]",
    b"[-0]", b'["\\ud800"]', b'["\xff"]', b"[" * 2000,
)  # fmt: skip
BAD_METADATA: tuple[dict[str, object], ...] = (
    {"wcodec_version": 1}, {"model_name": 1}, {"options": []}, {"metadata": []},
    {"metadata": {"a": 1}}, {"duplicates": 0}, {"duplicates": False}, {"source": []},
    {"source": {"format": "safetensors"}}, {"source": {"format": "gguf", "header": ""}},
    {"source": {"format": 1, "header": ""}}, {"source": {"format": "safetensors", "header": 1}},
)  # fmt: skip


def files() -> Iterator[Built]:
    """Files with one thing that is odd, or none."""
    layers = sample_layers()
    raw, _, again, _ = layers
    yield build()
    yield build(sound_layers())
    yield build([])
    yield build([LayerSpec("long", [Block(bytes(300)), Block(bytes(40))], shape=(340,))])
    for metadata in BAD_JSON:
        yield build([], metadata)
    for change in BAD_METADATA:
        yield build(metadata={**METADATA, **change})
    for odd in (
        [raw, raw], [again], [raw, again, replace(again, name="third", target="again")],
        [raw, replace(again, shape=(3,))], [replace(raw, target="raw")],
        [replace(raw, blocks=[])], [replace(raw, shape=(0,))],
        [replace(raw, blocks=[Block(b"", coding=1)])],
        [replace(raw, blocks=[Block(bytes(5), padding=b"\1")])],
        [replace(raw, shape=(1 << 63, 4), data_bytes=0)], [replace(raw, dtype="")],
        [replace(raw, dtype="x" * 256)], [replace(raw, dtype="NEW", row_axes=1)],
        [replace(raw, row_axes=2)], [replace(raw, family=6)], [replace(again, row_axes=1), raw],
        [raw, replace(again, family=2)], [raw, replace(again, block_rows=1)],
        [replace(raw, name="n" * 1100)], [replace(raw, shape=(1,) * 65)],
    ):  # fmt: skip
        yield build(odd)
    text = json.dumps(METADATA).encode()
    stream = zstandard.ZstdCompressor().compressobj()
    dictionary = zstandard.ZstdCompressionDict(text * 9, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    wide = zstandard.ZstdCompressionParameters(window_log=26)
    whole = zstandard.ZstdCompressor(write_checksum=True).compress(text)
    no_id = bytearray(whole)
    no_id[4] |= 1  # a dictionary of one byte
    for frame, size in (
        (whole, len(text)), (whole, 5), (whole[:-5], len(text)), (whole + b"x", len(text)),
        (bytes(no_id), len(text)), (stream.compress(text) + stream.flush(), len(text)),
        (text, len(text)), (whole[:4], len(text)), (zstandard.ZstdCompressor().compress(b""), 0),
        (zstandard.ZstdCompressor(compression_params=wide).compress(bytes(1 << 26)), 1 << 26),
        (zstandard.ZstdCompressor(dict_data=dictionary).compress(text), len(text)),
    ):  # fmt: skip
        built = build([], frame)
        values = {"header.flags": 1, "header.metadata_bytes": size}
        yield replace(built, data=built.with_fields(values))


def containers() -> Iterator[bytes]:
    """Files whose checksums are all 0: odd ones, some with hostile fields, cut off or longer."""
    for i, built in enumerate(files()):
        variants = [built.data]
        if i < 4:
            for name in built.fields:
                values = list(hostile_values(built, name))
                chosen = (values[0], values[len(values) // 2], values[-1])
                variants += [built.with_field(name, value) for value in chosen]
        for data in variants:
            yield without_checksums(built, data)
        if i < 2:
            data = without_checksums(built, built.data)
            yield from (data[:n] for n in range(0, len(data), 45))
            yield from (data + bytes(1), data + data[-32:], data[:-4] + bytes(4))
    _core.crc32 = lambda data, start=0: 0
    _core.crc32_combine = lambda first, second, second_bytes: 0
    file = io.BytesIO()
    Writer(file, metadata=Metadata("0.1.0", source_header="{}" + " " * 5000)).close()  # zstd
    yield file.getvalue()


def without_checksums(built: Built, data: bytes) -> bytes:
    changed = bytearray(data)
    for seal in built.seals:
        for place in (seal.offset, *seal.copies):
            changed[place : place + 4] = bytes(4)
    return bytes(changed)


def safetensors_files() -> Iterator[bytes]:
    tensors = {"a": ("F32", [2], 0, 8), "b": ("F4", [2, 2], 8, 10), "c": ("I8", [0], 10, 10)}
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        for name, (dtype, shape, begin, end) in tensors.items()
    }
    sound = json.dumps(header).encode()
    texts = [sound, b" " + sound, sound + b"  ", *BAD_JSON]
    for extra in (
        {"__metadata__": {"k": "v"}}, {"__metadata__": None}, {"__metadata__": {"k": 1}},
        {"__metadata__": []}, {"d": {}}, {"d": None}, {"e": {**header["c"], "more": [[{}]]}},
    ):  # fmt: skip
        texts.append(json.dumps(header | extra).encode())
    deep: object = 0
    for _ in range(127):
        deep = [deep]
    for change in (
        {"dtype": 1}, {"dtype": "NEW"}, {"shape": 2}, {"shape": [2.0]}, {"shape": [-2]},
        {"shape": [True]}, {"shape": [1 << 64]}, {"shape": [1 << 32, 1 << 32]}, {"shape": [3]},
        {"data_offsets": [0]}, {"data_offsets": [8, 0]}, {"data_offsets": [0, -8]},
        {"data_offsets": [0, 9]}, {"data_offsets": [4, 12]}, {"more": deep}, {"more": {"x": deep}},
    ):  # fmt: skip
        texts.append(json.dumps(header | {"a": header["a"] | change}).encode())
    for text in texts:
        yield len(text).to_bytes(8, "little") + text + bytes(10)
    for size, data in ((len(sound), 9), (len(sound), 11), (len(sound) + 40, 0), (10**8 + 1, 0)):
        yield size.to_bytes(8, "little") + sound + bytes(data)
    yield bytes(5)


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
