# SPDX-License-Identifier: Apache-2.0
"""Write the golden files of this format version that are missing: one small file a feature, and a
manifest of what each decodes to and which encoder wrote it.

    python tools/make_golden.py [DIRECTORY]          (default: tests/golden)

A file that the manifest names is never written again: a later encoder may give other bytes for the
same content. That content comes from seeds alone; where it differs from the manifest, this says so
and writes nothing. tests/format/test_golden.py decodes the files with the package and with
tools/reference_decoder.py.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

import wcodec
from wcodec.codec import batch
from wcodec.codec.layout import Grid
from wcodec.codec.spatial import PREDICTORS, TRANSFORMS
from wcodec.codec.structure import group_rows
from wcodec.container import LayerHead, Metadata, Writer
from wcodec.container.constants import MAJOR, MINOR
from wcodec.dtypes import DTYPES, bits, numpy_dtype, unit_bytes

VERSION = f"v{MAJOR}_{MINOR}"
SUMS = "SHA256SUMS"  # for sha256sum -c
FORMS = {
    "bf16_e8": ("BF16", 1),
    "bf16_e8m1": ("BF16", 2),
    "fp16_e5m1": ("F16", 3),
    "fp32_e8": ("F32", 4),
    "fp32_e8m1": ("F32", 5),
    "fp32_e8_z13": ("F32", 6),
    "fp32_e8m1_z13": ("F32", 7),
    "fp32_e8_z16": ("F32", 8),
    "fp32_e8m1_z16": ("F32", 9),
    "int8_t4": ("I8", 10),
    "int8_t5": ("I8", 11),
    "int8_t6": ("I8", 12),
    "int8_t8": ("F8_E8M0", 13),
    "fp8_t5": ("F8_E4M3", 14),
}


def words_for(dtype: str, zero_bits: int, n: int, seed: int) -> NDArray[np.uint8]:
    """Weight-like words with escapes here and there (rare exponents, infinities, NaN payloads)."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(n).astype(np.float32) * np.float32(0.05)
    rare = random.random(n) < 0.01
    values[rare] *= np.float32(2.0) ** random.integers(-90, 90, rare.sum()).astype(np.float32)
    words = values.view(np.uint32)
    if dtype == "F32":
        return (words >> zero_bits << zero_bits).view(np.uint8)
    if dtype == "BF16":
        return (words >> 16).astype(np.uint16).view(np.uint8)
    if dtype == "I8":
        return np.clip(values * 200, -128, 127).astype(np.int8).view(np.uint8)
    if dtype == "F8_E8M0":
        return (words >> 23).astype(np.uint8)
    with np.errstate(over="ignore"):
        if dtype == "F8_E4M3":
            return values.astype(numpy_dtype(dtype)).view(np.uint8)
        return values.astype(np.float16).view(np.uint8)


class Made(NamedTuple):
    """A golden file: its bytes, and the SHA-256 of each layer."""

    data: bytes
    layers: dict[str, str]


class GoldenFile:
    """One file in the making: layers are added with exactly the plan that is asked for."""

    def __init__(self, name: str, **metadata: object) -> None:
        self.name = f"{VERSION}_{name}.wcodec"
        self._file = io.BytesIO()
        own = Metadata(wcodec.__version__, **metadata)  # type: ignore[arg-type]
        self._writer = Writer(self._file, metadata=own)
        self.digests: dict[str, str] = {}

    def add(
        self,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        data: NDArray[np.uint8],
        *,
        family: int = batch.RAW,
        form_set: int = 0,
        n_streams: int = 1,
        row_axes: int = 0,
        grid: Grid | None = None,
        spatial: tuple[int, int, int, int] = (0, 0, 0, 0),
        rans32: tuple[int, bool] = (0, False),
        shuffle: bool = False,
    ) -> None:
        w = unit_bytes(dtype) if grid is None else grid.unit_bytes
        if grid is None:
            grid = (
                Grid(1, len(data) // w, w, 1, 1, 1, False)
                if len(data)
                else Grid(0, 0, w, 0, 0, 0, False)
            )
        self._writer.begin_layer(
            LayerHead(
                name=name,
                dtype=dtype,
                shape=shape,
                data_bytes=len(data),
                family=family,
                unit_bytes=w,
                row_groups=grid.row_groups,
                row_axes=row_axes,
                block_rows=grid.block_rows,
                col_bands=grid.col_bands,
                panel_rows=grid.panel_rows,
            )
        )
        for window in grid.windows(1 << 30):
            piece = data[window.start : window.start + window.size]
            descriptors, row_index = window.descriptors, batch.NO_ROWS
            if descriptors is None:
                groups = group_rows(piece.view(np.uint32).reshape(window.rows, -1))
                blocks = batch.encode_row_groups(groups, 3)
                self._writer.write_blocks(blocks.headers, blocks.data)
                descriptors, row_index = grid.group_descriptors(groups)
            if family == batch.LZ:
                if grid.row_groups:
                    piece = piece.reshape(window.rows, -1)[row_index].reshape(-1)
                    first = descriptors["row_index_first"]
                    descriptors["matrix_offset"] = first * np.uint64(grid.row_bytes)
                parts = batch.encode_lz(
                    piece, w, descriptors, shuffle=shuffle, zstd_level=3, verify=True
                )
            else:
                parts = [
                    batch.encode_blocks(
                        piece,
                        w,
                        descriptors,
                        row_index,
                        family=family,
                        form_set=form_set,
                        n_streams=n_streams,
                        spatial=spatial,
                        rans32=rans32,
                        verify=True,
                        threads=1,
                    )
                ]
            for blocks in parts:
                self._writer.write_blocks(blocks.headers, blocks.data)
        self._writer.end_layer()
        self.digests[name] = hashlib.sha256(data.tobytes()).hexdigest()

    def refer(self, name: str, dtype: str, shape: tuple[int, ...], size: int, target: str) -> None:
        self._writer.add_reference(LayerHead.reference(name, dtype, shape, size, target))
        self.digests[name] = self.digests[target]

    def close(self) -> dict[str, Made]:
        self._writer.close()
        return {self.name: Made(self._file.getvalue(), self.digests)}


def make_forms() -> dict[str, Made]:
    made: dict[str, Made] = {}
    for name, (dtype, form) in FORMS.items():
        file = GoldenFile(f"rans16_{name}")
        zero_bits = int(name.rpartition("_z")[2]) if "_z" in name else 0
        # So many steps that the states of a stream are paid for.
        times = {"F32": 1, "BF16": 2, "F16": 5}.get(dtype, 6)
        for n_steps, tail, n_streams in ((8, 0, 1), (9, 77, 2), (18, 1, 4)):
            n = 128 * times * n_steps + tail
            data = words_for(dtype, zero_bits, n, seed=n + form)
            options = {"family": batch.RANS16, "form_set": 1 << form, "n_streams": n_streams}
            file.add(f"streams {n_streams}", dtype, (n,), data, **options)  # type: ignore[arg-type]
        made |= file.close()
    return made


def make_spatial() -> dict[str, Made]:
    """Every predictor with every transform, every tile size, and every form and unit size."""
    made: dict[str, Made] = {}

    def smooth(rows: int, cols: int, seed: int) -> NDArray[np.int64]:
        noise = np.random.default_rng(seed).integers(-2, 3, (rows, cols))
        y, x = np.mgrid[:rows, :cols]
        result: NDArray[np.int64] = x * x // 16 - 3 * y + y * x // 24 + noise
        return result

    def add(file: GoldenFile, name: str, dtype: str, values: NDArray[Any], *options: int) -> None:
        rows, cols = values.shape
        w = values.itemsize
        file.add(
            name,
            dtype,
            (rows, cols),
            np.ascontiguousarray(values).reshape(-1).view(np.uint8),
            family=batch.SPATIAL,
            row_axes=1,
            grid=Grid(rows, cols, w, rows, 1, rows, False),
            spatial=options,  # type: ignore[arg-type]
        )

    file = GoldenFile("spatial_modes")
    for p, predictor in enumerate(PREDICTORS):
        for t, transform in enumerate(TRANSFORMS):
            values = (smooth(27, 45, 6 * t + p) // 4).astype(np.int8)
            add(file, f"{predictor} {transform}", "I8", values, 0, 4, 1 << p, 1 << t)
    made |= file.close()

    file = GoldenFile("spatial_tiles")
    for tile_log2 in range(2, 7):
        values = np.where(np.arange(150) < 70, smooth(70, 150, tile_log2), 0)
        values[20:40] *= np.random.default_rng(tile_log2).integers(0, 20, (20, 150))
        add(
            file, f"tiles of {1 << tile_log2}", "I16", values.astype(np.int16), 0, tile_log2, 63, 15
        )
    made |= file.close()

    file = GoldenFile("spatial_forms")
    signs = np.where(np.arange(60) % 9 == 0, -1, 1)
    for dtype, form in (("U8", 1), ("U16", 1), ("I32", 0), ("U32", 1), ("F16", 2), ("F32", 2)):
        floats = (smooth(40, 60, form) * signs).astype(np.float32) / np.float32(64)
        integers = smooth(40, 60, form) * (1 if dtype == "U8" else 9)
        values = floats if dtype[0] == "F" else integers
        add(file, dtype, dtype, values.astype(numpy_dtype(dtype)), form, 3, 63, 15)
    made |= file.close()
    return made


def make_rans32() -> dict[str, Made]:
    """Every unit size and form, with and without raw bits, zero bits, escapes and classes."""
    file = GoldenFile("rans32")
    random = np.random.default_rng(32)
    rows, cols = 40, 96
    scale = np.exp2(np.arange(rows) % 5)[:, None] * np.exp2(np.arange(cols) % 3)
    values = random.normal(0, 0.02, (rows, cols)) * scale
    values[random.random((rows, cols)) < 0.002] = 300
    for dtype, low_bits, sign_raw, exponent_bits, classes in (
        ("I8", 0, 0, 0, True), ("U8", 0, 0, 0, False), ("U8", 2, 0, 0, True),
        ("F8_E4M3", 0, 1, 4, True), ("I16", 6, 0, 0, True), ("BF16", 5, 1, 8, True),
        ("BF16", 6, 0, 8, False), ("F16", 8, 1, 5, False), ("F32", 5, 1, 8, True),
        ("F32", 6, 1, 8, False), ("F64", 2, 1, 11, True),
    ):  # fmt: skip
        own = values if dtype[:1] in "BF" else np.clip(200 * values, -100, 100)
        words = (own + 128 * (dtype == "U8")).astype(numpy_dtype(dtype))
        data = np.ascontiguousarray(words).reshape(-1).view(np.uint8)
        if dtype == "F32" and not classes:
            data.view(np.uint32)[:] &= 0xFFFFE000
        file.add(
            f"{dtype} {low_bits} {'classes' if classes else ''}",
            dtype,
            (rows, cols),
            data,
            family=batch.RANS32,
            form_set=1 << 16 * sign_raw + low_bits,
            row_axes=1,
            grid=Grid(rows, cols, words.itemsize, rows, 1, rows, False),
            rans32=(exponent_bits, classes),
        )
    return file.close()


def make_row_groups() -> dict[str, Made]:
    """Rows of three precisions in each family, and a map that zstd packs."""
    made: dict[str, Made] = {}

    def words_of(rows: int, cols: int) -> NDArray[np.uint32]:
        words = words_for("F32", 0, rows * cols, seed=cols).view(np.uint32)
        words = words.reshape(rows, cols).copy()
        words[::3] &= 0xFFFFE000
        words[1::5] &= 0xFFFF0000
        words[7::20] = 0
        return words

    def add(
        name: str, words: NDArray[np.uint32], panel_rows: int, family: int, form_set: int
    ) -> None:
        rows, cols = words.shape
        file.add(
            name,
            "F32",
            (rows, cols),
            words.view(np.uint8).reshape(-1),
            family=family,
            form_set=form_set,
            row_axes=1,
            grid=Grid(rows, cols, 4, 8, 1, panel_rows, True),
            spatial=(batch.SPATIAL_FLOAT, 2, 63, 15),
            rans32=(8, True),
        )

    file = GoldenFile("row_groups")
    for cols in (256, 100):
        add(f"{cols} columns", words_of(60, cols), 25, batch.RANS16, batch.FP32_FORMS)
    made |= file.close()

    file = GoldenFile("row_groups_of_families")
    for name, family, form_set in (
        ("raw", batch.RAW, 0),
        ("rans32", batch.RANS32, 1 << 16 + 5),
        ("spatial", batch.SPATIAL, 0),
        ("lz", batch.LZ, 0),
    ):
        # Few numbers, with the zero bits of the rows.
        words = words_of(60, 40)[:, :1] + (np.arange(40) % 7 << 16).astype(np.uint32)
        add(name, words, 25, family, form_set)
    add("long map", words_of(700, 2), 400, batch.RAW, 0)
    made |= file.close()
    return made


def make_others() -> dict[str, Made]:
    random = np.random.default_rng(7)
    made: dict[str, Made] = {}

    file = GoldenFile("dtypes", model_name="dtypes")
    for dtype in [*DTYPES, "FUTURE7"]:
        size = bits(dtype) or 7
        data = np.frombuffer(random.bytes(24 * size // 8), np.uint8)
        file.add(dtype, dtype, (4, 6), data)
    file.add("scalar", "F64", (), np.frombuffer(random.bytes(8), np.uint8))
    file.add("empty", "BF16", (3, 0), np.empty(0, np.uint8))
    made |= file.close()

    file = GoldenFile("constant")
    for w, dtype in ((1, "I8"), (2, "I16"), (4, "F32"), (8, "I64")):
        file.add(dtype, dtype, (1000,), np.tile(np.arange(1, w + 1, dtype=np.uint8), 1000))
    made |= file.close()

    file = GoldenFile("lz")
    repeats = np.tile(np.arange(100, dtype=np.int32), 20).view(np.uint8)
    file.add("plain", "I32", (2000,), repeats, family=batch.LZ)
    slow = np.arange(2000, dtype=np.int64).view(np.uint8)
    file.add("shuffled", "I64", (2000,), slow, family=batch.LZ, shuffle=True)
    made |= file.close()

    file = GoldenFile("grid")
    for cols, col_bands in ((300, 1), (256, 2), (300, 2), (700, 4)):
        data = words_for("BF16", 0, 20 * cols, seed=cols)
        options = {"family": batch.RANS16, "form_set": batch.BF16_FORMS, "row_axes": 1}
        grid = Grid(20, cols, 2, 7, col_bands, 20, False)
        name = f"{col_bands} bands of {cols}"
        file.add(name, "BF16", (20, cols), data, grid=grid, **options)  # type: ignore[arg-type]
    made |= file.close()

    file = GoldenFile("parts")
    for dtype, shape, grid, like, family, form_set in (
        ("C64", (12, 35), Grid(12, 70, 4, 12, 1, 12, False), "F32", batch.RANS16, 1 << 5),
        ("I32", (8, 65), Grid(8, 260, 1, 4, 2, 8, False), "I8", batch.RANS32, 1),
        ("U64", (90,), Grid(1, 360, 2, 1, 1, 1, False), "BF16", batch.RANS32, 1 << 4),
    ):
        file.add(
            dtype,
            dtype,
            shape,
            words_for(like, 0, grid.rows * grid.cols, seed=3),
            family=family,
            form_set=form_set,
            row_axes=len(shape) - 1,
            grid=grid,
        )
    made |= file.close()

    file = GoldenFile("reference", duplicates=True)
    data = np.frombuffer(random.bytes(400), np.uint8)
    file.add("embedding", "F32", (10, 10), data)
    file.refer("head", "F32", (10, 10), 400, "embedding")
    made |= file.close()

    file = GoldenFile(
        "source",
        model_name="with a source",
        metadata={"key": "value"},
        source_header='{"w":{"dtype":"I16","shape":[2,3],"data_offsets":[0,12]}}       ',
    )
    file.add("w", "I16", (2, 3), np.arange(12, dtype=np.uint8))
    made |= file.close()
    return made


def make_all() -> dict[str, Made]:
    """The golden files of this version, as this encoder writes them, by name."""
    return make_forms() | make_spatial() | make_rans32() | make_row_groups() | make_others()


def main() -> None:
    root = Path(__file__).parents[1]
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "tests" / "golden"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{VERSION}_manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {}
    zstd = ".".join(map(str, zstandard.ZSTD_VERSION))
    encoder = f"wcodec {wcodec.__version__} of {datetime.date.today()}, zstd {zstd}"
    made = make_all()
    changed = [n for n in made.keys() & manifest.keys() if manifest[n]["layers"] != made[n].layers]
    if changed:
        sys.exit(f"the content of {', '.join(sorted(changed))} is not what the manifest says")
    for name in made.keys() - manifest.keys():
        (directory / name).write_bytes(made[name].data)
        manifest[name] = {"encoder": encoder, "layers": made[name].layers}
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    files = sorted(path for path in directory.iterdir() if path.name != SUMS)
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (directory / SUMS).write_text("".join(sums))


if __name__ == "__main__":
    main()
