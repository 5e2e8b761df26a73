# SPDX-License-Identifier: Apache-2.0
"""The layers of a file in order. Small ones come in runs, decoded many at once: one read, one call
of the core, all blocks in flight.

A layer costs some 100 microseconds alone, more than decoding 100 KB, and few have enough blocks for
all threads. One run is read while the one before it is decoded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wcodec.codec import batch
from wcodec.codec.layout import Grid, all_blocks
from wcodec.container import KIND_REFERENCE, IndexEntry, Reader
from wcodec.container.constants import align
from wcodec.memory import Budget
from wcodec.overlap import read_ahead
from wcodec.windows import WindowMemory, decode_windows, grid_of

ARRAY_ALIGNMENT = batch.STREAMING_ALIGNMENT
MIN_AHEAD_BYTES = 4 << 20  # reading less takes no longer than starting a thread


def decode_layers(
    reader: Reader,
    entries: Iterable[IndexEntry],
    budget: Budget,
    decoded: Callable[[int], None] = lambda n_bytes: None,
) -> Iterator[tuple[IndexEntry, NDArray[np.uint8]]]:
    """Layers in this order, with their bytes in new memory, which small ones share: what is new to
    the process costs more than decoding. `decoded` is told how many bytes have been decoded.
    """
    runs = decode_runs(reader, entries, budget, batch.aligned_empty, ARRAY_ALIGNMENT)
    window_memory = WindowMemory(budget)
    for run, starts, memory in runs:
        if memory is None:
            data = batch.aligned_empty(run[0].data_bytes)
            layer = reader.open_layer(run[0].name)
            if layer.head.kind == KIND_REFERENCE:
                layer = reader.open_layer(layer.head.target)
            for window in decode_windows(layer, budget, data, window_memory):
                decoded(len(window))
            yield run[0], data
            continue
        for entry, start in zip(run, starts, strict=True):
            decoded(entry.data_bytes)
            yield entry, memory[start : start + entry.data_bytes]


def decode_runs(
    reader: Reader,
    entries: Iterable[IndexEntry],
    budget: Budget,
    allocate: Callable[[int], NDArray[np.uint8]],
    alignment: int,
) -> Iterator[tuple[list[IndexEntry], list[int], NDArray[np.uint8] | None]]:
    """Yield each run of these layers with the starts of its layers in the memory that they are
    decoded into, `allocate`d anew; without memory for a reference or a layer too large for a run,
    which is left to the caller.
    """
    decoder = RunDecoder(reader, budget)

    def read(run: list[IndexEntry]) -> tuple[list[IndexEntry], ReadRun | None]:
        return run, decoder.read(run) if is_small(run[0], budget) else None

    entries = list(entries)
    ahead = budget.overlap and sum(entry.record_bytes for entry in entries) >= MIN_AHEAD_BYTES
    for run, content in read_ahead(group_runs(entries, budget), read, ahead=ahead):
        sizes = [align(entry.data_bytes, alignment) for entry in run]
        *starts, size = accumulate(sizes, initial=0)
        memory = None
        if content is not None:
            memory = allocate(size)
            decoder.decode(content, starts, memory)
        yield run, starts, memory


def group_runs(entries: Iterable[IndexEntry], budget: Budget) -> Iterator[list[IndexEntry]]:
    """Cut layers, in order, into runs whose records lie back to back and which fit a window, as
    stored and decoded. References and larger layers are alone.
    """
    run: list[IndexEntry] = []
    decoded = 0
    for entry in entries:
        if run and not (
            is_small(entry, budget)
            and is_small(run[-1], budget)
            and run[-1].record_end == entry.record_offset
            and entry.record_end - run[0].record_offset <= budget.window_bytes
            and decoded + entry.data_bytes <= budget.window_bytes
        ):
            yield run
            run, decoded = [], 0
        run.append(entry)
        decoded += entry.data_bytes
    if run:
        yield run


def is_small(entry: IndexEntry, budget: Budget) -> bool:
    """Whether a layer may be part of a run."""
    return not entry.is_reference and max(entry.data_bytes, entry.record_bytes) <= (
        budget.window_bytes
    )


_GRANULE = 4 << 20


class ReadRun(NamedTuple):
    """Small layers whose records, back to back, are in memory."""

    entries: Sequence[IndexEntry]
    memory: NDArray[np.uint8]


class RunDecoder:
    """Decodes the runs of one file, reading into the same memory again and again."""

    def __init__(self, reader: Reader, budget: Budget) -> None:
        self._reader = reader
        self._budget = budget
        self._free: list[NDArray[np.uint8]] = []

    def read(self, run: Sequence[IndexEntry]) -> ReadRun:
        """Read small layers; another thread may decode a run meanwhile."""
        size = run[-1].record_end - run[0].record_offset + batch.READ_SLACK_BYTES
        memory = self._free.pop() if self._free else batch.aligned_empty(0)
        if len(memory) < size:  # large runs differ a little: with room for the next ones
            room = size if size < _GRANULE else align(size, _GRANULE)
            memory = batch.aligned_empty(room)
        self._reader.read_records(run, memory)
        return ReadRun(run, memory)

    def decode(self, run: ReadRun, starts: Sequence[int], out: NDArray[np.uint8]) -> None:
        """Decode the layers of a run into `out`, each from its start on.

        Raises CorruptError naming the first damaged layer of a family.
        """
        kinds: dict[tuple[int, int], tuple[list[batch.Part], list[Grid]]]
        kinds = defaultdict(lambda: ([], []))
        run_offset = run.entries[0].record_offset
        for layer, start in zip(
            self._reader.open_layers(run.entries, run.memory), starts, strict=True
        ):
            head, grid = layer.head, grid_of(layer.head)
            if grid.row_groups or not head.data_bytes:
                for _ in decode_windows(layer, self._budget, out[start : start + head.data_bytes]):
                    pass
                continue
            layer.check_count(grid.n_blocks)
            data_offset = layer.entry.record_offset - run_offset + layer.blocks_offset
            parts, grids = kinds[head.family, grid.unit_bytes]
            parts.append(batch.Part(layer.headers, data_offset, start, head.name))
            grids.append(grid)
        for (family, unit_bytes), (parts, grids) in kinds.items():
            batch.decode_parts(
                parts,
                all_blocks(grids),
                run.memory,
                family,
                out,
                unit_bytes,
                threads=self._budget.threads,
            )
        self._free.append(run.memory)
