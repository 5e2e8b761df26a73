# SPDX-License-Identifier: Apache-2.0
"""Counting bytes for whoever wants to watch."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], object]


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
