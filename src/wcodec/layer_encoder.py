# SPDX-License-Identifier: Apache-2.0
"""Tensors into the records of a writer: sample -> plan -> windows -> blocks. A large tensor goes
through window by window, each coded by all threads; small ones are coded several at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from itertools import cycle, tee, zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wcodec.codec import batch
from wcodec.codec.coding import Plan, encode_window, verify_window
from wcodec.codec.plan import (
    BLOCK_ELEMENTS,
    LEVELS,
    MAX_BLOCK_ELEMENTS,
    MIN_BLOCK_ELEMENTS,
    SAMPLE_BYTES,
    plan_layer,
)
from wcodec.codec.spatial import SpatialOptions
from wcodec.container import IndexEntry, LayerHead, Writer
from wcodec.memory import MIN_WINDOW_BYTES, Budget, budget
from wcodec.overlap import SMALL_BYTES, Begin, Buffers, worker
from wcodec.progress import Counter
from wcodec.sources import Tensor
from wcodec.tensor_reader import TensorReader

MAX_SMALL_THREADS = 8  # only one of them runs Python at a time


class EncodeOptions(NamedTuple):
    """What encode_checkpoint was asked for, checked."""

    level: str
    spatial: SpatialOptions
    block_elements: int
    verify: bool
    budget: Budget

    @staticmethod
    def of(
        level: str,
        spatial: SpatialOptions,
        block_elements: int | None,
        verify: bool,
        budget: Budget,
    ) -> EncodeOptions:
        """Check what a caller gave; block_elements None stands for that of the level. Raises
        ValueError.
        """
        if level not in LEVELS:
            raise ValueError(f"level is {level!r}, expected one of {', '.join(LEVELS)}")
        if block_elements is None:
            block_elements = BLOCK_ELEMENTS[level]
        if not MIN_BLOCK_ELEMENTS <= block_elements <= MAX_BLOCK_ELEMENTS:
            raise ValueError(
                f"block_elements is {block_elements}, "
                f"expected {MIN_BLOCK_ELEMENTS} to {MAX_BLOCK_ELEMENTS}"
            )
        return EncodeOptions(level, spatial, block_elements, verify, budget)


def encode_budget(threads: int | None, max_memory: int | None = None) -> Budget:
    """What a run of encoding may use. Raises ValueError for arguments out of range."""
    return budget(batch.thread_count(threads), max_memory, SAMPLE_BYTES)


class SmallLayer(NamedTuple):
    """A layer of one window, ready to be written."""

    head: LayerHead
    coding: str
    blocks: list[batch.Blocks]


def encode_small(
    tensor: Tensor, data: NDArray[np.uint8], options: EncodeOptions, threads: int
) -> SmallLayer:
    """Encode a small tensor, all of whose bytes are given."""
    plan, blocks = _plan(tensor, data, options)
    for window in plan.grid.windows(max(1, tensor.data_bytes)):  # one, whatever the memory
        options.budget.check(tensor.name, window.size)
        if not blocks:
            blocks = encode_window(plan, window, data, verify=options.verify, threads=threads)
        elif options.verify:
            verify_window(plan, window, data, blocks)
    codings = _codings(blocks)
    # A small layer whose blocks all came out raw or constant says so.
    family = plan.family if plan.family in codings else batch.RAW
    return SmallLayer(_head(tensor, plan, family), _coding_name(family, codings), blocks)


class LayerEncoder:
    """Encodes tensors, one after the other and in the same memory, into records of a writer.

    `begin` (overlap.worker) has another thread read what comes next.
    """

    def __init__(
        self,
        writer: Writer,
        options: EncodeOptions,
        counter: Counter,
        begin: Begin | None = None,
    ) -> None:
        self._writer = writer
        self._options = options
        self._counter = counter
        self._reader = TensorReader(begin)
        self._outputs = Buffers(options.budget.n_buffers, batch.aligned_empty)

    def encode(self, tensor: Tensor, following: Tensor | None = None) -> tuple[IndexEntry, str]:
        """Write the record of a tensor; returns its index entry and the name of its coding. The
        tensor that comes next may be given.
        """
        sample = self._reader.get(tensor, 0, _sample_bytes(tensor))
        if following is not None and len(sample) == tensor.data_bytes:
            self._reader.fetch(following, 0, _sample_bytes(following))
        if is_small(tensor):
            layer = encode_small(tensor, sample, self._options, self._options.budget.threads)
            self._reader.leave()
            return self.write(layer)
        plan, _ = _plan(tensor, sample, self._options)
        self._writer.begin_layer(_head(tensor, plan, plan.family))
        codings: set[int] = set()
        for blocks, size in self._blocks(plan, tensor, following):
            self._write(blocks)
            codings |= _codings(blocks)
            self._counter.add(size)
        self._reader.leave()
        return self._writer.end_layer(), _coding_name(plan.family, codings)

    def write(self, layer: SmallLayer) -> tuple[IndexEntry, str]:
        """Write the record of a small layer; returns what encode() does."""
        self._writer.begin_layer(layer.head)
        self._write(layer.blocks)
        self._counter.add(layer.head.data_bytes)
        return self._writer.end_layer(), layer.coding

    def _write(self, blocks: list[batch.Blocks]) -> None:
        for part in blocks:
            self._writer.write_blocks(part.headers, part.data)

    def _blocks(
        self, plan: Plan, tensor: Tensor, following: Tensor | None
    ) -> Iterator[tuple[list[batch.Blocks], int]]:
        """The blocks of each window, in parts, and the size of the window. They are valid until
        other blocks of SMALL_BYTES have been written.
        """
        options = self._options
        windows, next_windows = tee(plan.grid.windows(options.budget.window_bytes))
        next(next_windows, None)
        for window, next_window in zip_longest(windows, next_windows):
            options.budget.check(tensor.name, window.size)
            data = self._reader.get(tensor, window.start, window.size)
            if next_window is not None:
                self._reader.fetch(tensor, next_window.start, next_window.size)
            elif following is not None:
                self._reader.fetch(following, 0, _sample_bytes(following))
            blocks = encode_window(
                plan,
                window,
                data,
                verify=options.verify,
                threads=options.budget.threads,
                outputs=self._outputs,
            )
            if plan.family != batch.LZ and len(blocks[-1].data) < SMALL_BYTES:
                # A small write waits for none, so this memory would be used again too early.
                blocks[-1] = blocks[-1]._replace(data=blocks[-1].data.copy())
                self._outputs.give_back()
            yield blocks, window.size


def encode_ahead(
    tensors: Iterable[Tensor], options: EncodeOptions
) -> Generator[SmallLayer, None, None]:
    """Encode small tensors, in order; while the caller works on one, the next are encoded by other
    threads, as many as fit a window.
    """
    rest = iter(tensors)
    free = options.budget.window_bytes
    under_way: deque[tuple[int, Callable[[], SmallLayer]]] = deque()

    def encode(tensor: Tensor) -> SmallLayer:
        data = TensorReader().get(tensor, 0, tensor.data_bytes)
        return encode_small(tensor, data, options, 1)

    with ExitStack() as stack:
        n_threads = min(options.budget.threads, MAX_SMALL_THREADS)
        workers = [stack.enter_context(worker("wcodec-encode")) for _ in range(n_threads)]
        begins = cycle(workers)
        while True:
            while free > 0 and (tensor := next(rest, None)) is not None:
                free -= tensor.data_bytes
                under_way.append((tensor.data_bytes, next(begins)(encode, tensor)))
            if not under_way:
                return
            size, wait = under_way.popleft()
            free += size
            yield wait()


def is_small(tensor: Tensor) -> bool:
    """Whether a tensor is one window, whatever memory a run may use."""
    return tensor.data_bytes <= MIN_WINDOW_BYTES


def _sample_bytes(tensor: Tensor) -> int:
    return min(tensor.data_bytes, SAMPLE_BYTES)


def _plan(
    tensor: Tensor, sample: NDArray[np.uint8], options: EncodeOptions
) -> tuple[Plan, list[batch.Blocks]]:
    return plan_layer(
        tensor.dtype,
        tensor.shape,
        tensor.data_bytes,
        sample,
        options.level,
        options.block_elements,
        options.spatial,
    )


def _head(tensor: Tensor, plan: Plan, family: int) -> LayerHead:
    grid = plan.grid
    return LayerHead(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        data_bytes=tensor.data_bytes,
        family=family,
        unit_bytes=grid.unit_bytes,
        row_groups=grid.row_groups,
        row_axes=plan.row_axes,
        block_rows=grid.block_rows,
        col_bands=grid.col_bands,
        panel_rows=grid.panel_rows,
    )


def _codings(blocks: list[batch.Blocks]) -> set[int]:
    return {coding for part in blocks for coding in part.headers["coding"].tolist()}


def _coding_name(family: int, codings: set[int]) -> str:
    """The family, or constant where all blocks are."""
    return batch.CODING_NAMES[batch.CONSTANT if codings == {batch.CONSTANT} else family]
