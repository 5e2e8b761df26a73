# SPDX-License-Identifier: Apache-2.0
"""What a run tells whoever watches: bytes counted for a callback, lines on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[int, int], object]


@contextmanager
def watching(progress: Progress | type | None) -> Iterator[Progress | None]:
    """Give the callback of a `progress` argument: itself, or one that drives a bar of a class like
    tqdm.tqdm, which is made with unit and unit_scale, has `total` and update(n), and is closed at
    the end.
    """
    if not isinstance(progress, type):
        yield progress
        return
    bar: Any = progress(total=None, unit="B", unit_scale=True)
    seen = 0

    def update(done: int, total: int) -> None:
        nonlocal seen
        bar.total = total or None
        bar.update(done - seen)
        seen = done

    try:
        yield update
    finally:
        bar.close()


class Counter:
    """Adds up bytes and reports (done, total) after each addition; total is 0 while nobody knows
    it.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.done = 0
        self._progress = progress
        self._total = total

    def add(self, n_bytes: int) -> None:
        self.done += n_bytes
        if self._progress is not None:
            self._progress(self.done, self._total)

    def part(self, size: int) -> Progress:
        """A Progress for one part of the work, which begins here and counts for `size` bytes,
        however many it says it has. If a part is begun again, nothing is taken back.

        >>> counter = Counter(lambda done, total: print(done, total), 10)
        >>> counter.add(4)
        4 10
        >>> counter.part(6)(50, 100)
        7 10
        """
        start = self.done

        def progress(done: int, total: int) -> None:
            now = start + size * done // total if total else start
            if now > self.done:
                self.add(now - self.done)

        return progress


def say(line: str) -> None:
    """Print a line of a verbose run to stderr."""
    print(printable(line), file=sys.stderr)


def printable(text: str) -> str:
    """Text from a file as it may be shown on a terminal: control characters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size_change(input_bytes: int, output_bytes: int) -> str:
    """The summary of a verbose run; the ratio is that of the larger size to the smaller."""
    ratio = max(input_bytes, output_bytes) / max(1, min(input_bytes, output_bytes))
    return f"{input_bytes} -> {output_bytes} bytes, ratio {ratio:.4f}"
