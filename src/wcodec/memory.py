# SPDX-License-Identifier: Apache-2.0
"""How much memory a run may hold, and what that leaves for windows and threads.

A layer is worked through in windows, so memory does not grow with it. How large the windows are
changes nothing in a file: its blocks follow from the layer alone.
"""

from __future__ import annotations

from typing import NamedTuple

WINDOW_BYTES = 32 << 20
MIN_WINDOW_BYTES = 8 << 20  # one block of coding lz
N_WINDOWS = 2  # a window of the layer, and its blocks as they are stored
DEFAULT_MAX_MEMORY = 512 << 20
FIXED_BYTES = 20 << 20  # what the allocator, zstd and the headers and indexes of usual models take
THREAD_BYTES = 3 << 20  # scratch of the core for blocks of the default size


class Budget(NamedTuple):
    """What a run may use: `threads`, and windows of about `window_bytes`, at most
    `max_window_bytes` where a layer has blocks that cannot be parted; `overlap` says whether there
    is room for two windows at once.
    """

    threads: int
    window_bytes: int
    max_window_bytes: int | None
    overlap: bool

    @property
    def n_buffers(self) -> int:
        """Of each memory for windows: with `overlap` the next is read and the last is written
        meanwhile.
        """
        return 2 if self.overlap else 1

    def check(self, layer: str, window_bytes: int) -> None:
        """Raise ValueError if a window of this layer does not fit into the memory allowed."""
        if self.max_window_bytes is not None and window_bytes > self.max_window_bytes:
            more = self.n_buffers * N_WINDOWS * (window_bytes - self.max_window_bytes)
            raise ValueError(
                f"layer {layer!r:.200}: can only be worked through in pieces of {window_bytes} "
                f"bytes, which needs {more} bytes more of max_memory"
            )


def budget(threads: int, max_memory: int | None, kept_bytes: int) -> Budget:
    """Share out `max_memory` bytes over what a run keeps beside its windows, threads and windows.

    Threads are given up before windows get smaller than the least. Raises ValueError if there is
    not enough for one thread.
    """
    total = DEFAULT_MAX_MEMORY if max_memory is None else max_memory
    least = N_WINDOWS * MIN_WINDOW_BYTES
    free = total - FIXED_BYTES - kept_bytes
    if free < THREAD_BYTES + least:
        smallest = FIXED_BYTES + kept_bytes + THREAD_BYTES + least
        raise ValueError(f"max_memory is {total} bytes, expected at least {smallest}")
    threads = min(threads, (free - least) // THREAD_BYTES)
    overlap = total >= DEFAULT_MAX_MEMORY
    room = (free - threads * THREAD_BYTES) // (N_WINDOWS * (1 + overlap))
    return Budget(threads, min(WINDOW_BYTES, room), None if max_memory is None else room, overlap)
