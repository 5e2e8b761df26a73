# SPDX-License-Identifier: Apache-2.0
"""Reading ahead and writing behind: order, what is valid how long, errors, what happens where."""

import errno
import os
import threading
import time

import numpy as np
import pytest

import wcodec
from wcodec import overlap


def test_items_are_read_in_order_and_one_ahead():
    events = []
    yielded = threading.Event()

    def read(item):
        events.append(("read", item))
        if item == 1:
            yielded.wait(10)
        return item * 10

    results = []
    for result in overlap.read_ahead(iter(range(4)), read):
        yielded.set()
        results.append(result)
    assert results == [0, 10, 20, 30]
    assert events == [("read", item) for item in range(4)]


def test_an_only_item_is_read_by_the_caller():
    def who(_):
        return threading.get_ident()

    assert list(overlap.read_ahead([1], who)) == [who(1)]
    assert list(overlap.read_ahead([1, 2], who, ahead=False)) == [who(1)] * 2
    assert who(1) not in overlap.read_ahead([1, 2], who)
    assert list(overlap.read_ahead([], lambda item: item)) == []


def test_an_error_of_reading_comes_in_its_turn():
    def read(item):
        if item == 1:
            raise ZeroDivisionError
        return item

    reading = overlap.read_ahead(range(3), read)
    assert next(reading) == 0
    with pytest.raises(ZeroDivisionError):
        next(reading)


def test_a_reader_that_is_left_reads_no_more_than_one_item():
    seen = []
    reading = overlap.read_ahead(range(9), seen.append)
    next(reading)
    reading.close()
    assert seen == [0, 1]


def test_everything_is_written_in_order(tmp_path):
    pieces = [bytes([i]) * size for i, size in enumerate([3, 70_000, 5, 0, 2_000_000, 66_000, 1])]
    pieces += [b"ab" * 100] * 12_000  # gathered, more than once
    with open(tmp_path / "a", "wb") as file, overlap.write_behind(file) as behind:
        for piece in pieces:
            behind.write(piece)
    assert (tmp_path / "a").read_bytes() == b"".join(pieces)


def test_memory_may_be_used_again_after_the_next_write(tmp_path):
    buffers = [bytearray(100_000), bytearray(100_000)]
    small = bytearray(1)
    with open(tmp_path / "a", "wb") as file, overlap.write_behind(file) as behind:
        for i in range(50):
            buffers[i % 2][:] = bytes([i]) * 100_000
            behind.write(buffers[i % 2])
            small[0] = i
            behind.write(small)
    expected = b"".join(bytes([i]) * 100_001 for i in range(50))
    assert (tmp_path / "a").read_bytes() == expected


@pytest.mark.parametrize("n_bytes", [1, 100_000])
def test_a_slow_write_is_over_when_the_next_has_returned(tmp_path, n_bytes):
    memory = bytearray(100_000)
    with open(tmp_path / "a", "wb") as file, overlap.write_behind(_SlowFile(file)) as behind:
        behind.write(memory)
        behind.write(bytes(n_bytes))
        memory[:] = b"x" * len(memory)
    assert (tmp_path / "a").read_bytes() == bytes(100_000 + n_bytes)


def test_a_small_write_waits_for_none_if_it_need_not(tmp_path):
    may_write = threading.Event()

    class Waiting:
        def fileno(self):
            return file.fileno()

        def write(self, data):
            assert may_write.wait(60)
            file.write(data)

    with (
        open(tmp_path / "a", "wb") as file,
        overlap.write_behind(Waiting(), small_waits=False) as behind,
    ):
        behind.write(bytes(100_000))
        behind.write(b"x")
        may_write.set()
    assert (tmp_path / "a").read_bytes() == bytes(100_000) + b"x"


class _SlowFile:
    """What is to be written may be changed for a while before it is."""

    def __init__(self, file):
        self._file = file
        self.fileno = file.fileno

    def write(self, data):
        time.sleep(0.1)
        self._file.write(data)


class _FullFile:
    """A regular file on a disk that is full after the first write."""

    def __init__(self, file):
        self._file = file
        self.n_writes = 0

    def fileno(self):
        return self._file.fileno()

    def write(self, data):
        assert threading.current_thread() is not threading.main_thread()
        self.n_writes += 1
        if self.n_writes > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_file(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        yield _FullFile(file)


def write_pieces(file, n_pieces, error=None):
    with overlap.write_behind(file) as behind:
        for _ in range(n_pieces):
            behind.write(bytes(70_000))
        if error:
            raise error


@pytest.mark.parametrize("n_pieces", [2, 3, 9])
def test_an_error_of_writing_is_raised(full_file, n_pieces):
    with pytest.raises(OSError, match="No space left") as caught:
        write_pieces(full_file, n_pieces)
    assert caught.value.errno == errno.ENOSPC
    assert full_file.n_writes == 2


def test_an_error_of_the_caller_wins(full_file):
    with pytest.raises(ZeroDivisionError):
        write_pieces(full_file, 2, ZeroDivisionError())


def test_a_pipe_is_written_to_by_the_caller():
    ends = os.pipe()
    with os.fdopen(ends[1], "wb") as pipe, overlap.write_behind(pipe) as given:
        assert given is pipe
    os.close(ends[0])


def test_a_system_that_lacks_the_hints(tmp_path, monkeypatch):
    for name in ("posix_fadvise", "sched_getaffinity"):
        monkeypatch.delattr(os, name)
    layers = {"a": np.arange(100_000), "b": np.ones(9)}
    wcodec.encode_checkpoint(layers, tmp_path / "a.wcodec")
    found = wcodec.decode_checkpoint(tmp_path / "a.wcodec")
    assert all((found[name] == array).all() for name, array in layers.items())
