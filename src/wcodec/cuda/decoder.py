# SPDX-License-Identifier: Apache-2.0
"""Layers decoded on a device: their blocks, as stored, pass through a ring of page-locked memory,
are checked there, uploaded and decoded into their places.

Nothing waits for the device but a slot of the ring that is still in use, and finish(), which looks
at the status of every stream. What has no place of its own in the output, a block of which a part
is wanted or whose rows lie apart, is decoded beside it and moved. Codings without a kernel are
decoded on the host and copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wcodec.block_header import block_name
from wcodec.codec import batch
from wcodec.codec.layout import Grid
from wcodec.container import Layer, Reader
from wcodec.cuda.device import Device, Event
from wcodec.cuda.placement import Placement, selection, whole_layer
from wcodec.dtypes import unit_bytes
from wcodec.memory import Budget
from wcodec.slices import Positions, decode_selection, matrix_runs, read_blocks
from wcodec.windows import WindowMemory, decode_windows, grid_of

N_SLOTS = 3
SLOT_BYTES = 64 << 20  # of the host and of the device, each: 384 MiB in all
# Of a chunk: small enough that several reads are under way, and that it fits into a slot with the
# descriptors of its blocks.
CHUNK_BYTES = 8 << 20
MAX_STREAMS = 4
READ_THREADS = 4
ALIGNMENT = 256
DESCRIPTOR_ALIGNMENT = 16
SLACK_FOR_KERNELS = 32 * DESCRIPTOR_ALIGNMENT  # each may begin with a gap, and so may parameters
# Of row groups on the device: the row index of a block must fit into a slot beside it.
MAX_PANEL_ROWS = 2 << 20
WARP_THREADS = 32
COPY_KERNEL, COPY_THREADS = "wcodec_copy_blocks", 256

_Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Chunk:
    """Some blocks of a layer and where they go in the target."""

    layer: Layer
    placement: Placement
    target: torch.Tensor
    unit_bytes: int
    block_room: int  # in a slot: the blocks and slack, to a multiple of ALIGNMENT
    more_room: int  # for descriptors and parameters, at most
    moved_ends: NDArray[np.int64]  # of each block that is moved, in scratch memory

    @property
    def room(self) -> int:
        """In a slot, for the blocks and the row index."""
        return self.block_room + _align(self.placement.row_index.nbytes)

    @property
    def moved_bytes(self) -> int:
        return int(self.moved_ends[-1]) if len(self.moved_ends) else 0


@dataclass
class _Slot:
    host: torch.Tensor
    device: torch.Tensor
    in_use: Event | None = None
    chunks: list[_Chunk] = field(default_factory=list)
    data_bytes: int = 0
    more_bytes: int = 0
    moved_bytes: int = 0

    def has_room(self, chunk: _Chunk) -> bool:
        needed = self.data_bytes + chunk.room + self.more_bytes + chunk.more_room
        moved = self.moved_bytes + chunk.moved_bytes
        return max(needed, moved) <= len(self.host)

    def add(self, chunk: _Chunk) -> None:
        self.chunks.append(chunk)
        self.data_bytes += chunk.room
        self.more_bytes += chunk.more_room
        self.moved_bytes += chunk.moved_bytes

    def clear(self) -> None:
        self.chunks.clear()
        self.data_bytes = self.more_bytes = self.moved_bytes = 0


@dataclass(frozen=True)
class _Work:
    """Descriptors of one chunk for a kernel: whose layer they are of, and the numbers of the
    blocks, but for copies, which cannot fail.
    """

    descriptors: NDArray[np.void]
    layer: str
    numbers: NDArray[np.int64] | None


@dataclass(frozen=True)
class _Launched:
    """Streams and blocks that were launched: their statuses, on the device, and what they are of,
    in the same order.
    """

    status: torch.Tensor
    work: list[_Work]

    def find(self, i: int) -> tuple[int, str]:
        """The number and the layer of the block that status i is of."""
        for work in self.work:
            assert work.numbers is not None
            if i < len(work.numbers):
                return int(work.numbers[i]), work.layer
            i -= len(work.numbers)
        raise IndexError(i)


class Decoder:
    """Decodes layers on one device, one after the other; results are good after finish().
    `n_blocks` counts the blocks decoded so far.

    The memory of tensors that decode() has been given must stay until then. Not for several threads
    at once. Close it, or use it as a context manager.
    """

    def __init__(self, device: Device, budget: Budget) -> None:
        self._device = device
        self._budget = budget
        self._window_memory = WindowMemory(budget)
        self._readers = ThreadPoolExecutor(max(READ_THREADS, budget.threads), "wcodec-read")
        self._slots: list[_Slot] = []
        self._turn = 0
        self._launched: list[_Launched] = []
        self.n_blocks = 0

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads that read."""
        self._readers.shutdown(cancel_futures=True)

    def decode(self, layer: Layer) -> torch.Tensor:
        """Return the bytes of a stored layer, on the device. Raises CorruptError, OSError."""
        grid = grid_of(layer.head)
        target = self._device.empty(layer.head.data_bytes)
        if layer.head.data_bytes == 0:
            layer.finish()
        elif self._has_kernels(layer, grid):
            for placement in whole_layer(layer, grid):
                self._add(layer, placement, target, grid.unit_bytes)
        else:
            self._decode_on_host(layer, target)
        return target

    def decode_part(self, layer: Layer, positions: Sequence[Positions]) -> torch.Tensor:
        """Return the bytes of a stored layer at these positions of its axes, as decode_selection()
        does, on the device. Raises CorruptError, OSError.
        """
        grid = grid_of(layer.head)
        n_bytes = prod(map(len, positions)) * unit_bytes(layer.head.dtype)
        target = self._device.empty(n_bytes)
        if n_bytes == 0:
            return target
        rows, cols = matrix_runs(layer.head, positions)
        if len(cols.starts) == 1 and self._has_kernels(layer, grid):
            for placement in selection(layer, grid, rows, cols):
                self._add(layer, placement, target, grid.unit_bytes)
        else:
            data, n_blocks = decode_selection(layer, positions, self._budget)
            self.n_blocks += n_blocks
            target.copy_(torch.from_numpy(data))
        return target

    def decode_named(self, reader: Reader, name: str) -> torch.Tensor:
        """decode() a layer of a file, or the one whose bytes it shares."""
        return self.decode(reader.open_layer(reader.resolve(name).name))

    def finish(self) -> None:
        """Wait until everything is decoded. Raises CorruptError naming block and layer."""
        self._flush()
        self._device.event().synchronize()
        for launched in self._launched:
            status = self._device.download(launched.status).view(np.uint32)
            wrong = np.flatnonzero(status)
            if len(wrong):
                i = int(wrong[0])
                raise batch.stream_error(*launched.find(i), int(status[i]))
        self._launched.clear()

    # ---- What goes where ----

    def _has_kernels(self, layer: Layer, grid: Grid) -> bool:
        if layer.head.family not in (batch.RAW, batch.RANS16, batch.RANS32, batch.SPATIAL):
            return False
        if grid.row_groups and grid.panel_rows > MAX_PANEL_ROWS:
            return False
        headers = layer.headers
        if headers["n_streams"].max(initial=0) > MAX_STREAMS:  # the host says what is wrong
            return False
        forms = np.unique(headers["form"][headers["coding"] == batch.RANS16])
        return all(rans16_kernel(form) in self._device.kernels for form in forms.tolist())

    def _decode_on_host(self, layer: Layer, target: torch.Tensor) -> None:
        self.n_blocks += len(layer.headers)
        start = 0
        for window in decode_windows(layer, self._budget, memory=self._window_memory):
            target[start : start + len(window)].copy_(torch.from_numpy(window))
            start += len(window)

    def _add(
        self, layer: Layer, placement: Placement, target: torch.Tensor, unit_bytes: int
    ) -> None:
        """Queue blocks, in chunks."""
        numbers, descriptors = placement.numbers, placement.descriptors
        self.n_blocks += len(numbers)
        batch.check_payload_sizes(
            layer.headers[numbers], lambda i: block_name(int(numbers[i]), layer.head.name)
        )
        sizes = layer.offsets[numbers + 1] - layer.offsets[numbers]
        more = batch.device_room(layer.headers[numbers], descriptors)
        moved = np.zeros(len(numbers), np.int64)
        if placement.first_cols is not None:
            more += batch.COPY_DESCRIPTOR.itemsize + descriptors["rows"] * np.int64(4)
            moved = descriptors["rows"].astype(np.int64) * descriptors["cols"] * unit_bytes
            moved = -(-moved // ALIGNMENT) * ALIGNMENT
        ends = np.cumsum(sizes + more + moved)
        first = begin = 0
        while first < len(numbers):
            last = int(np.searchsorted(ends, begin + CHUNK_BYTES, side="right"))
            last = max(first + 1, last)
            part = slice(first, last)
            chunk = _Chunk(
                layer,
                placement.part(first, last),
                target,
                unit_bytes,
                _align(int(sizes[part].sum()) + batch.READ_SLACK_BYTES),
                int(more[part].sum()) + SLACK_FOR_KERNELS,
                np.cumsum(moved[part]),
            )
            if not self._slot().has_room(chunk):
                self._flush()
            self._slot().add(chunk)
            first, begin = last, int(ends[last - 1])

    # ---- The ring ----

    def _slot(self) -> _Slot:
        if self._turn == len(self._slots):
            host = self._device.host_empty(SLOT_BYTES)
            self._slots.append(_Slot(host, self._device.empty_for_upload(SLOT_BYTES)))
        return self._slots[self._turn]

    def _flush(self) -> None:
        """Read and check what the slot has been given, upload it, and start its kernels."""
        if self._turn == len(self._slots) or not self._slot().chunks:
            return
        slot = self._slot()
        if slot.in_use is not None:
            slot.in_use.synchronize()
        places = np.cumsum([0, *(chunk.room for chunk in slot.chunks)]).tolist()
        scratch = self._device.empty(slot.moved_bytes)
        beside = np.cumsum([0, *(chunk.moved_bytes for chunk in slot.chunks)])
        beside = (beside + scratch.data_ptr()).tolist()
        described = list(
            self._readers.map(
                lambda chunk, place, beside: _read(chunk, slot, place, beside),
                slot.chunks,
                places[:-1],
                beside[:-1],
            )
        )
        self._launch(slot, described)
        slot.in_use = self._device.event()
        slot.clear()
        self._turn = (self._turn + 1) % N_SLOTS

    def _launch(self, slot: _Slot, described: list[_Described]) -> None:
        """Put parameters and descriptors into the slot, behind the data, upload all, and launch
        the kernels that these ask for; what is moved last.
        """
        at = slot.data_bytes

        def put(data: NDArray[Any]) -> int:
            """Returns the address."""
            nonlocal at
            part = data.view(np.uint8).reshape(-1)
            slot.host.numpy()[at : at + len(part)] = part
            place: int = slot.device.data_ptr() + at
            at += -(-len(part) // DESCRIPTOR_ALIGNMENT) * DESCRIPTOR_ALIGNMENT
            return place

        by_kernel: dict[str, list[_Work]] = {}
        for chunk, found in zip(slot.chunks, described, strict=True):
            at_parameters = np.uint64(put(found.blocks.parameters))
            found.blocks.rans32["parameters"] += at_parameters
            found.blocks.spatial["parameters"] += at_parameters
            for kernel, work in _work(chunk, found.blocks):
                by_kernel.setdefault(kernel, []).append(work)
        copies = by_kernel.pop(COPY_KERNEL, [])
        moves = [found.moves for found in described if len(found.moves)]
        decoded = sorted(by_kernel.items())
        all_work = [part for _, parts in decoded for part in parts]
        addresses = [
            put(_joined([part.descriptors for part in parts]))
            for parts in [copies, *(parts for _, parts in decoded)]
        ]
        move_address = put(_joined(moves))
        status = self._device.empty(4 * sum(len(part.descriptors) for part in all_work))
        self._launched.append(_Launched(status, all_work))
        self._device.upload(slot.device[:at], slot.host[:at])
        n = sum(len(part.descriptors) for part in copies)
        if n:
            self._device.launch(COPY_KERNEL, n, COPY_THREADS, addresses[0])
        to = status.data_ptr()
        for (kernel, parts), address in zip(decoded, addresses[1:], strict=True):
            n = sum(len(part.descriptors) for part in parts)
            self._device.launch(kernel, n, WARP_THREADS, address, to)
            to += 4 * n
        if moves:
            self._device.launch(COPY_KERNEL, sum(map(len, moves)), COPY_THREADS, move_address)


@dataclass(frozen=True)
class _Described:
    """What a device needs for a chunk: to decode its blocks, and to move them."""

    blocks: batch.DeviceBlocks
    moves: NDArray[np.void]


def _joined(records: list[NDArray[np.void]]) -> _Bytes:
    return np.concatenate([np.empty(0, np.uint8), *(part.view(np.uint8) for part in records)])


def _work(chunk: _Chunk, blocks: batch.DeviceBlocks) -> Iterator[tuple[str, _Work]]:
    """What is to be done for a chunk, by the name of the kernel."""
    layer = chunk.layer.head.name
    if len(blocks.copies):
        yield COPY_KERNEL, _Work(blocks.copies, layer, None)
    for form in np.unique(blocks.forms).tolist():
        chosen = blocks.forms == form
        work = _Work(blocks.streams[chosen], layer, blocks.stream_numbers[chosen])
        yield rans16_kernel(form), work
    if len(blocks.rans32):
        yield rans32_kernel(chunk.unit_bytes), _Work(blocks.rans32, layer, blocks.rans32_numbers)
    if len(blocks.spatial):
        yield spatial_kernel(chunk.unit_bytes), _Work(blocks.spatial, layer, blocks.spatial_numbers)


def _read(chunk: _Chunk, slot: _Slot, place: int, scratch: int) -> _Described:
    """Read a chunk to its place in a slot and check it; `scratch` is the address of memory for the
    blocks that are moved.
    """
    placement = chunk.placement
    data = slot.host.numpy()[place : place + chunk.room]
    read_blocks(chunk.layer, placement.numbers, data[: chunk.block_room])
    data_address = slot.device.data_ptr() + place
    descriptors, matrix_bytes = placement.descriptors, len(chunk.target)
    matrix_address = chunk.target.data_ptr()
    moves = np.zeros(0, batch.COPY_DESCRIPTOR)
    if placement.first_cols is not None and placement.n_cols is not None:
        index = placement.row_index.view(np.uint8)
        data[chunk.block_room : chunk.block_room + len(index)] = index
        starts = np.concatenate([[0], chunk.moved_ends[:-1]]).astype(np.uint64)
        unit = chunk.unit_bytes
        moves = np.zeros(len(descriptors), batch.COPY_DESCRIPTOR)
        moves["source"] = starts + np.uint64(scratch)
        moves["source"] += placement.first_cols.astype(np.uint64) * np.uint64(unit)
        moves["source_stride"] = descriptors["cols"] * unit
        moves["output"] = descriptors["matrix_offset"] + np.uint64(matrix_address)
        moves["row_stride"] = descriptors["row_stride"]
        indexed = descriptors["row_index_first"] != batch.NO_ROW_INDEX
        moves["row_map"][indexed] = descriptors["row_index_first"][indexed] * np.uint64(4)
        moves["row_map"][indexed] += np.uint64(data_address + chunk.block_room)
        moves["row_bytes"] = placement.n_cols * unit
        moves["n_rows"] = descriptors["rows"]
        descriptors = descriptors.copy()
        descriptors["matrix_offset"] = starts
        descriptors["row_stride"] = descriptors["cols"] * np.uint64(unit)
        descriptors["row_index_first"] = batch.NO_ROW_INDEX
        matrix_address, matrix_bytes = scratch, chunk.moved_bytes
    blocks = batch.describe_blocks(
        batch.Blocks(chunk.layer.headers[placement.numbers], data),
        chunk.layer.head.family,
        descriptors,
        matrix_bytes,
        chunk.unit_bytes,
        data_address=data_address,
        matrix_address=matrix_address,
        layer=chunk.layer.head.name,
        numbers=placement.numbers,
    )
    return _Described(blocks, moves)


def rans16_kernel(form: int) -> str:
    """The name of the kernel of a form of rans16."""
    return f"wcodec_rans16_{batch.FORM_NAMES.get(form)}"


def rans32_kernel(unit_bytes: int) -> str:
    """The name of the kernel of rans32 for units of this size."""
    return f"wcodec_rans32_w{unit_bytes}"


def spatial_kernel(unit_bytes: int) -> str:
    """The name of the kernel of spatial for units of this size."""
    return f"wcodec_spatial_w{unit_bytes}"


def _align(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
