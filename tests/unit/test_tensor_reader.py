# SPDX-License-Identifier: Apache-2.0
"""Tensors window by window: what is read when, by whom, and how long it stays."""

import threading

import numpy as np
import pytest

from wcodec import overlap, tensor_reader
from wcodec.sources import ArrayTensor
from wcodec.tensor_reader import TensorReader

SIZE = 5 << 20
LARGE = tensor_reader.MIN_AHEAD_BYTES


class FileTensor:
    """A tensor that is not in memory, and remembers what was read of it and by which thread."""

    dtype, shape = "U8", (SIZE,)

    def __init__(self, name="a", fails_at=SIZE):
        self.name = name
        self.data_bytes = SIZE
        self.data = np.random.default_rng(len(name)).integers(0, 256, SIZE, dtype=np.uint8)
        self.fails_at = fails_at
        self.reads = []

    def read_into(self, start, out):
        self.reads.append((start, start + len(out), threading.current_thread().name))
        if start + len(out) > self.fails_at:
            raise ZeroDivisionError
        out[:] = self.data[start : start + len(out)]

    def memory(self):
        return None


WINDOWS = [(0, 3 << 20), (1 << 20, 1 << 20), (2 << 20, 2 << 20), (4 << 20, 1 << 20)]


def test_each_byte_is_read_once():
    tensor = FileTensor()
    reader = TensorReader()
    for start, size in WINDOWS:
        data = reader.get(tensor, start, size)
        assert np.array_equal(data, tensor.data[start : start + size])
        reader.fetch(tensor, 0, SIZE)  # without another thread it does nothing
    name = threading.current_thread().name
    assert tensor.reads == [(0, 3 << 20, name), (3 << 20, 4 << 20, name), (4 << 20, SIZE, name)]


def test_the_next_are_read_by_another_thread():
    tensors = [FileTensor("a"), FileTensor("bb")]
    with overlap.worker("reads") as begin:
        reader = TensorReader(begin)
        asked = [(tensor, *window) for tensor in tensors for window in WINDOWS]
        for asked_for, following in zip(asked, [*asked[1:], None], strict=True):
            tensor, start, size = asked_for
            data = reader.get(*asked_for)
            if following is not None:
                reader.fetch(*following)
                reader.fetch(*following)
            assert np.array_equal(data, tensor.data[start : start + size])
    for tensor, first in zip(tensors, [threading.current_thread().name, "reads"], strict=True):
        parts = [(start, end) for start, end, _ in tensor.reads]
        assert parts == [(0, 3 << 20), (3 << 20, 4 << 20), (4 << 20, SIZE)]
        assert [name for _, _, name in tensor.reads] == [first, "reads", "reads"]


def test_what_was_given_stays_while_the_next_is_read():
    tensor = FileTensor()
    with overlap.worker("reads") as begin:
        reader = TensorReader(begin)
        for start in range(0, SIZE, LARGE):
            data = reader.get(tensor, start, LARGE)
            if start + LARGE < SIZE:
                reader.fetch(tensor, start + LARGE, LARGE)
                while len(tensor.reads) < start // LARGE + 2:
                    pass
            assert np.array_equal(data, tensor.data[start : start + LARGE])


def test_little_is_read_when_it_is_asked_for():
    tensor = FileTensor()
    with overlap.worker("reads") as begin:
        reader = TensorReader(begin)
        reader.get(tensor, 0, LARGE)
        reader.fetch(tensor, LARGE, LARGE - 1)
        assert len(tensor.reads) == 1
        assert np.array_equal(
            reader.get(tensor, LARGE, LARGE - 1), tensor.data[LARGE : 2 * LARGE - 1]
        )


def test_other_bytes_than_those_fetched():
    tensors = [FileTensor("a"), FileTensor("bb")]
    with overlap.worker("reads") as begin:
        reader = TensorReader(begin)
        reader.get(tensors[0], 0, LARGE)
        reader.fetch(tensors[0], LARGE, LARGE)
        assert np.array_equal(reader.get(tensors[1], 5, LARGE), tensors[1].data[5 : LARGE + 5])


def test_an_error_of_reading_comes_with_the_bytes_asked_for():
    tensor = FileTensor(fails_at=LARGE)
    with overlap.worker("reads") as begin:
        reader = TensorReader(begin)
        reader.get(tensor, 0, LARGE)
        reader.fetch(tensor, LARGE, LARGE)
        reader.get(tensor, 0, 7)
        with pytest.raises(ZeroDivisionError):
            reader.get(tensor, LARGE, LARGE)


def test_arrays_are_not_copied():
    array = np.arange(6000, dtype=np.float32).reshape(20, 300)
    tensor = ArrayTensor("a", array)
    reader = TensorReader()
    data = reader.get(tensor, 8, 400)
    assert np.shares_memory(data, array)
    assert not data.flags.writeable
    assert data.tobytes() == array.tobytes()[8:408]
    transposed = ArrayTensor("t", array.T)
    assert reader.get(transposed, 8, 400).tobytes() == array.T.tobytes()[8:408]
    assert array.flags.writeable
