# SPDX-License-Identifier: Apache-2.0
"""A device for the decoder of wcodec.cuda whose memory is the host's and whose kernels are the
emulated warp. Like a GPU it does nothing before somebody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from support import emulated_warp

from wcodec.codec import batch
from wcodec.cuda.decoder import rans16_kernel, rans32_kernel, spatial_kernel
from wcodec.cuda.device import kernel_names

CANARY = 0xA5
_RUNS = {rans16_kernel(form): partial(emulated_warp.run_streams, form) for form in batch.FORM_NAMES}
_RUNS |= {rans32_kernel(w): partial(emulated_warp.run_rans32, w) for w in (1, 2, 4, 8)}
_RUNS |= {spatial_kernel(w): partial(emulated_warp.run_spatial, w) for w in (1, 2, 4)}


class EmulatedDevice:
    def __init__(self) -> None:
        self.kernels = kernel_names()
        self.launched: list[str] = []
        self.uploaded_bytes = 0
        self._queue: list[Callable[[], None]] = []
        self._in_use: list[torch.Tensor] = []  # a GPU keeps memory until what was queued is done

    def empty(self, n_bytes: int) -> torch.Tensor:
        memory = torch.full((n_bytes + 256,), CANARY, dtype=torch.uint8)
        self._in_use.append(memory)
        start = -memory.data_ptr() % 256
        return memory[start : start + n_bytes]

    host_empty = empty_for_upload = empty

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.uploaded_bytes += len(source)
        self._queue.append(lambda: target.copy_(source))

    def launch(self, kernel: str, n_ctas: int, n_threads: int, *addresses: int) -> None:
        assert kernel in self.kernels
        self.launched.append(kernel)
        if kernel in _RUNS:
            assert n_threads == 32
            self._queue.append(lambda: _RUNS[kernel](n_ctas, *addresses))
        else:
            self._queue.append(lambda: emulated_warp.run_copies(n_ctas, n_threads, *addresses))

    def event(self) -> _Event:
        return _Event(self)

    def download(self, source: torch.Tensor) -> np.ndarray:
        self.wait()
        return source.numpy().copy()

    def wait(self) -> None:
        while self._queue:
            self._queue.pop(0)()
        self._in_use.clear()


class _Event:
    def __init__(self, device: EmulatedDevice) -> None:
        self._device = device

    def synchronize(self) -> None:
        self._device.wait()
