# SPDX-License-Identifier: Apache-2.0
"""Layers decoded on a device: their blocks, as stored, pass through a ring of page-locked memory,
are checked there, uploaded and decoded into their places.

Nothing waits for the device but a slot of the ring that is still in use, and finish(), which looks
at the status of every stream. Codings without a kernel, and row groups, are decoded on the host and
copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wcodec.codec import batch
from wcodec.codec.layout import Grid
from wcodec.container import Layer, Reader
from wcodec.cuda.device import Device, Event
from wcodec.errors import CorruptError
from wcodec.memory import Budget
from wcodec.slices import read_blocks
from wcodec.windows import decode_windows, grid_of

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
WARP_THREADS = 32
COPY_KERNEL, COPY_THREADS = "wcodec_copy_blocks", 256

_Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Chunk:
    """Some blocks of a layer and where they go: descriptors count from the beginning of target."""

    layer: Layer
    numbers: NDArray[np.int64]
    descriptors: NDArray[np.void]
    target: torch.Tensor
    unit_bytes: int
    room: int  # in a slot: the blocks and slack, to a multiple of ALIGNMENT
    more_room: int  # for descriptors and parameters, at most


@dataclass
class _Slot:
    host: torch.Tensor
    device: torch.Tensor
    in_use: Event | None = None
    chunks: list[_Chunk] = field(default_factory=list)
    data_bytes: int = 0
    more_bytes: int = 0

    def has_room(self, chunk: _Chunk) -> bool:
        needed = self.data_bytes + chunk.room + self.more_bytes + chunk.more_room
        return needed <= len(self.host)

    def add(self, chunk: _Chunk) -> None:
        self.chunks.append(chunk)
        self.data_bytes += chunk.room
        self.more_bytes += chunk.more_room


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
    """Streams and blocks that were launched: their statuses, on the device, and which block of
    which layer each is of.
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

    The memory of tensors that decode() has been given must stay until then. Not for several threads
    at once. Close it, or use it as a context manager.
    """

    def __init__(self, device: Device, budget: Budget) -> None:
        self._device = device
        self._budget = budget
        self._readers = ThreadPoolExecutor(max(READ_THREADS, budget.threads), "wcodec-read")
        self._slots: list[_Slot] = []
        self._turn = 0
        self._launched: list[_Launched] = []

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads that read."""
        self._readers.shutdown(cancel_futures=True)

    def decode(self, layer: Layer) -> torch.Tensor:
        """Return the bytes of a stored layer, on the device. Raises CorruptError, OSError."""
        target = self._device.empty(layer.head.data_bytes)
        grid = grid_of(layer.head)
        if layer.head.data_bytes == 0:
            layer.finish()
        elif self._has_kernels(layer, grid):
            if grid.n_blocks != len(layer.headers):
                raise CorruptError(
                    f"layer {layer.head.name!r:.200}: has {len(layer.headers)} blocks, "
                    f"expected {grid.n_blocks}"
                )
            self._add(layer, np.arange(grid.n_blocks), grid.all_blocks(), target, grid.unit_bytes)
        else:
            self._decode_on_host(layer, target)
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
        families = (batch.RAW, batch.RANS16, batch.RANS32)
        if grid.row_groups or layer.head.family not in families:
            return False
        headers = layer.headers
        if headers["n_streams"].max(initial=0) > MAX_STREAMS:  # the host says what is wrong
            return False
        forms = np.unique(headers["form"][headers["coding"] == batch.RANS16])
        return all(rans16_kernel(form) in self._device.kernels for form in forms.tolist())

    def _decode_on_host(self, layer: Layer, target: torch.Tensor) -> None:
        start = 0
        for window in decode_windows(layer, self._budget):
            target[start : start + len(window)].copy_(torch.from_numpy(window))
            start += len(window)

    def _add(
        self,
        layer: Layer,
        numbers: NDArray[np.int64],
        descriptors: NDArray[np.void],
        target: torch.Tensor,
        unit_bytes: int,
    ) -> None:
        """Queue blocks, in chunks."""
        batch.check_payload_sizes(layer.headers[numbers], layer.head.name, numbers)
        sizes = layer.offsets[numbers + 1] - layer.offsets[numbers]
        more = batch.device_room(layer.headers[numbers], descriptors)
        ends = np.cumsum(sizes + more)
        first = begin = 0
        while first < len(numbers):
            last = int(np.searchsorted(ends, begin + CHUNK_BYTES, side="right"))
            last = max(first + 1, last)
            part = slice(first, last)
            chunk = _Chunk(
                layer,
                numbers[part],
                descriptors[part],
                target,
                unit_bytes,
                _align(int(sizes[part].sum()) + batch.READ_SLACK_BYTES),
                int(more[part].sum()) + SLACK_FOR_KERNELS,
            )
            if not self._slot().has_room(chunk):
                self._flush()
            self._slot().add(chunk)
            first, begin = last, int(ends[last - 1])

    # ---- The ring ----

    def _slot(self) -> _Slot:
        if self._turn == len(self._slots):
            host, device = self._device.host_empty(SLOT_BYTES), self._device.empty(SLOT_BYTES)
            self._slots.append(_Slot(host, device))
        return self._slots[self._turn]

    def _flush(self) -> None:
        """Read and check what the slot has been given, upload it, and start its kernels."""
        if self._turn == len(self._slots) or not self._slot().chunks:
            return
        slot = self._slot()
        if slot.in_use is not None:
            slot.in_use.synchronize()
        places = np.cumsum([0, *(chunk.room for chunk in slot.chunks)]).tolist()
        described = list(
            self._readers.map(
                lambda chunk, place: _read(chunk, slot, place), slot.chunks, places[:-1]
            )
        )
        self._launch(slot, described)
        slot.in_use = self._device.event()
        slot.chunks.clear()
        slot.data_bytes = slot.more_bytes = 0
        self._turn = (self._turn + 1) % N_SLOTS

    def _launch(self, slot: _Slot, described: list[batch.DeviceBlocks]) -> None:
        """Put parameters and descriptors into the slot, behind the data, upload all, and launch
        the kernels that these ask for.
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
        for chunk, blocks in zip(slot.chunks, described, strict=True):
            blocks.rans32["parameters"] += np.uint64(put(blocks.parameters))
            for kernel, work in _work(chunk, blocks):
                by_kernel.setdefault(kernel, []).append(work)
        launches = []
        for kernel, parts in sorted(by_kernel.items()):
            address = put(np.concatenate([part.descriptors.view(np.uint8) for part in parts]))
            launches.append((kernel, parts, address))
        self._device.upload(slot.device[:at], slot.host[:at])
        for kernel, parts, address in launches:
            n = sum(len(part.descriptors) for part in parts)
            if kernel == COPY_KERNEL:
                self._device.launch(kernel, n, COPY_THREADS, address)
                continue
            status = self._device.empty(4 * n)
            self._launched.append(_Launched(status, parts))
            self._device.launch(kernel, n, WARP_THREADS, address, status.data_ptr())


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


def _read(chunk: _Chunk, slot: _Slot, place: int) -> batch.DeviceBlocks:
    """Read a chunk to its place in a slot and check it."""
    data = slot.host.numpy()[place : place + chunk.room]
    read_blocks(chunk.layer, chunk.numbers, data)
    return batch.describe_blocks(
        batch.Blocks(chunk.layer.headers[chunk.numbers], data),
        chunk.layer.head.family,
        chunk.descriptors,
        len(chunk.target),
        chunk.unit_bytes,
        data_address=slot.device.data_ptr() + place,
        matrix_address=chunk.target.data_ptr(),
        layer=chunk.layer.head.name,
        numbers=chunk.numbers,
    )


def rans16_kernel(form: int) -> str:
    """The name of the kernel of a form of rans16."""
    return f"wcodec_rans16_{batch.FORM_NAMES.get(form)}"


def rans32_kernel(unit_bytes: int) -> str:
    """The name of the kernel of rans32 for units of this size."""
    return f"wcodec_rans32_w{unit_bytes}"


def _align(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def decode_layer(reader: Reader, name: str, device: Device, budget: Budget) -> torch.Tensor:
    """Return the bytes of one layer of a file, on the device. Raises what Decoder raises."""
    with Decoder(device, budget) as decoder:
        data = decoder.decode_named(reader, name)
        decoder.finish()
        return data
