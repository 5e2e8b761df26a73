# SPDX-License-Identifier: Apache-2.0
"""Parts of layers: the bits are those of the array, and no block is decoded that is not touched."""

import random

import numpy as np
import pytest
from support.arrays import gaussian

import wcodec
from wcodec.codec.batch import ROW_GROUPS
from wcodec.container import Reader
from wcodec.decode import decode_budget
from wcodec.slices import decode_selection

BUDGETS = [decode_budget(2), decode_budget(1)._replace(window_bytes=1 << 18)]


def narrow_rows() -> np.ndarray:
    """Half of the rows are fp16 values, so rows are grouped."""
    values = gaussian("F32", 3000 * 768, 1).reshape(3000, 768)
    narrow = np.random.default_rng(2).random(3000) < 0.5
    values[narrow] = values[narrow].astype(np.float16)
    return values


ARRAYS = {
    "scalar": np.array(1.5, np.float32),
    "short": gaussian("BF16", 5),
    "long": gaussian("BF16", 300_000),
    "bands": gaussian("BF16", 700_000).reshape(700, 1000),
    "wide": gaussian("BF16", 1_500_000).reshape(300, 5000),
    "experts": gaussian("F16", 76_800).reshape(4, 64, 300),
    "kernel": gaussian("F32", 9408).reshape(64, 3, 7, 7),
    "narrow": gaussian("BF16", 1_000_000).reshape(500_000, 2),
    "groups": narrow_rows(),
    "spatial": np.add.outer(np.arange(900), 3 * np.arange(1000)).astype(np.int16),
    "lz": np.tile(np.arange(1000, dtype=np.int32), (200, 3)),
    "packed": gaussian("I8", 1_200_000).view(np.int32).reshape(300, 10, 100),
    "complex": gaussian("F32", 900_000).view(np.complex64).reshape(300, 1500),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("slices") / "arrays.wcodec"
    wcodec.encode_checkpoint(ARRAYS, path)
    return path


def positions_of(shape: tuple[int, ...], choose: random.Random) -> list:
    found = []
    for n in shape:
        first = choose.randrange(n)
        last = choose.randint(first, min(n, first + choose.choice([1, 50, n])))
        step = choose.choice([2, 3, 200])
        some = np.array(sorted(choose.sample(range(n), min(n, 4))))
        found.append(choose.choice([range(n), range(first, last), range(first, last, step), some]))
    return found


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("budget", BUDGETS, ids=["one window", "many windows"])
def test_any_part_is_that_of_the_array(path, name, budget):
    array = ARRAYS[name]
    choose = random.Random(name)
    with Reader(path) as reader:
        layer = reader.open_layer(name)
        for _ in range(40):
            positions = positions_of(array.shape, choose)
            data, n_blocks = decode_selection(layer, positions, budget)
            expected = array[np.ix_(*[np.array(p, np.int64) for p in positions])]
            expected = expected if positions else array
            assert data.tobytes() == np.ascontiguousarray(expected).tobytes()
            assert n_blocks <= len(layer.headers)


@pytest.mark.parametrize(
    ("name", "index", "expected", "in_all"),
    [
        ("wide", (range(10), range(5000)), 5, 10),
        ("wide", (range(300), range(1000)), 4, 10),
        ("wide", (range(300), range(1000, 1001)), 2, 10),
        ("long", (range(200_000, 200_001),), 1, 3),
        ("groups", (range(10), range(768)), 2, 18),
        ("bands", (range(5, 5), range(1000)), 0, 5),
    ],
)
def test_only_touched_blocks_are_decoded(path, name, index, expected, in_all):
    with Reader(path) as reader:
        layer = reader.open_layer(name)
        n_maps = int((layer.headers["coding"] == ROW_GROUPS).sum())
        _, n_blocks = decode_selection(layer, index, BUDGETS[0])
        assert (n_blocks, len(layer.headers) - n_maps) == (expected, in_all)


def test_the_blocks_between_are_not_read(path):
    class Source:
        def __init__(self):
            self.data = path.read_bytes()
            self.n_bytes = 0

        def size(self):
            return len(self.data)

        def read_ranges(self, ranges):
            self.n_bytes += sum(size for _, size in ranges)
            return [self.data[offset : offset + size] for offset, size in ranges]

    source = Source()
    layer = Reader(source).open_layer("groups")
    before = source.n_bytes
    decode_selection(layer, (range(1), range(768)), BUDGETS[0])
    assert source.n_bytes - before < layer.entry.record_bytes / 5


def test_damage_is_named_and_other_blocks_are_readable(path, tmp_path):
    data = bytearray(path.read_bytes())
    with Reader(path) as reader:
        layer = reader.open_layer("wide")
        last = len(layer.headers) - 1
        end = layer.entry.record_offset + layer.entry.directory_offset
    data[end - 100] ^= 1
    (tmp_path / "damaged.wcodec").write_bytes(data)
    with Reader(tmp_path / "damaged.wcodec") as reader:
        layer = reader.open_layer("wide")
        first, _ = decode_selection(layer, (range(10), range(5000)), BUDGETS[0])
        assert first.tobytes() == ARRAYS["wide"][:10].tobytes()
        with pytest.raises(wcodec.CorruptError, match=f"block {last} of 'wide'"):
            decode_selection(layer, (range(299, 300), range(4999, 5000)), BUDGETS[0])
