# SPDX-License-Identifier: Apache-2.0
"""Reading ahead and writing behind: while the caller codes one piece, other threads read the next
and write the last.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

Begin = Callable[..., Callable[[], Any]]

GATHERED_BYTES = 1 << 20
SMALL_BYTES = 64 << 10
PIECE_BYTES = 1 << 20  # a call of write: of 32 MiB one took ext4 four times as long as 32 of 1 MiB

_NOTHING = np.empty(0, np.uint8)


class Buffers:
    """Memory for `n` pieces, which is handed out in turn."""

    def __init__(self, n: int, allocate: Callable[[int], NDArray[np.uint8]]) -> None:
        self._allocate = allocate
        self._buffers = [_NOTHING] * n

    def take(self, size: int) -> NDArray[np.uint8]:
        """Memory of at least `size` bytes, the caller's until `n` pieces more are taken."""
        memory = self._buffers.pop(0)
        if len(memory) < size:
            memory = self._allocate(size)
        self._buffers.append(memory)
        return memory

    def give_back(self) -> None:
        """Nothing uses what was taken last: it is the next to be taken."""
        self._buffers.insert(0, self._buffers.pop())


def will_need(descriptor: int, offset: int, size: int) -> None:
    """Let the system begin to read these bytes of a regular file; no error says that it cannot."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_WILLNEED)


def read_ahead(
    items: Iterable[_Item], read: Callable[[_Item], _Result], *, ahead: bool = True
) -> Iterator[_Result]:
    """Yield read(item) of each item in order; while the caller works on one, the next is read on
    another thread. An only item is read on the caller's, and all are unless `ahead`.
    """
    if not ahead:
        yield from map(read, items)
        return
    rest = iter(items)
    first = list(islice(rest, 2))
    if len(first) < 2:
        yield from map(read, first)
        return
    with worker("wcodec-read") as begin:
        result_of_read = begin(read, first[0])
        for item in chain(first[1:], rest):
            result = result_of_read()
            result_of_read = begin(read, item)
            yield result
        yield result_of_read()


@contextmanager
def write_behind(file: BinaryIO, *, behind: bool = True, small_waits: bool = True) -> Iterator[Any]:
    """Give a file to write to whose writes reach `file` on another thread, in order; all have when
    the block is left without an error.

    What is written must not change until the next write has returned. Unless `small_waits`, a write
    of less than SMALL_BYTES does not wait for a larger one before it, so what that has written must
    not change until another of SMALL_BYTES has returned. An error of a write is raised by a later
    one or at the end. A pipe or a terminal, which may block for ever, is given as it is, and any
    file is unless `behind`.
    """
    if not behind or not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        yield file
        return
    with worker("wcodec-write") as begin:
        writer = _WriteBehind(file, begin, small_waits)
        yield writer
        writer.finish()


class _WriteBehind:
    """One large piece is under way at a time; small ones are copied and gathered."""

    def __init__(self, file: BinaryIO, begin: Begin, small_waits: bool) -> None:
        self._file = file
        self._begin = begin
        self._small_waits = small_waits
        self._under_way: Callable[[], Any] | None = None
        self._gathered = bytearray()

    def write(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        if len(view) >= SMALL_BYTES:
            self._write_gathered()
            self._hand_over(view)
            return
        if self._small_waits:
            self._wait()  # from now on the caller may change what was handed over
        self._gathered += view
        if len(self._gathered) >= GATHERED_BYTES:
            self._write_gathered()

    def finish(self) -> None:
        """Wait until everything is written."""
        self._write_gathered()
        self._wait()

    def _write_gathered(self) -> None:
        if self._gathered:
            self._hand_over(memoryview(self._gathered))
            self._gathered = bytearray()

    def _hand_over(self, view: memoryview) -> None:
        self._wait()
        self._under_way = self._begin(self._write_all, view)

    def _write_all(self, view: memoryview) -> None:
        for start in range(0, len(view), PIECE_BYTES):
            self._file.write(view[start : start + PIECE_BYTES])

    def _wait(self) -> None:
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way()


@contextmanager
def worker(name: str) -> Iterator[Begin]:
    """Give a function that has a thread call another function, in the order of the calls, and
    returns one that waits for the result and returns or raises it, once; when the block is left,
    the thread has done all. It is started by the first call.

    An executor would refuse work of threads that outlive the main thread.
    """
    tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def work() -> None:
        while (task := tasks.get()) is not None:
            task()
            del task  # what it refers to may be large

    def begin(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        answer: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def task() -> None:
            try:
                answer.put((function(*arguments), None))
            except BaseException as error:
                answer.put((None, error))

        def result() -> Any:
            found, error = answer.get()
            if error is not None:
                raise error
            return found

        tasks.put(task)
        if thread.ident is None:
            thread.start()
        return result

    # A daemon, because nobody ends it if the caller's thread is one and dies with the interpreter.
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        yield begin
    finally:
        tasks.put(None)
        if thread.ident is not None:
            thread.join()
