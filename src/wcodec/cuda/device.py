# SPDX-License-Identifier: Apache-2.0
"""A CUDA GPU as the decoder sees it: memory, uploads, kernels and events, by torch and driver.py.

All is ordered on the stream that is torch's current one when a call is made, so results are good to
use on it at once; uploads go through a stream of their own, which it waits for.
"""

from __future__ import annotations

import functools
import re
import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from wcodec.cuda import driver, nvrtc
from wcodec.errors import DeviceError

PTX = Path(__file__).with_name("kernels") / "kernels.ptx"
MIN_CAPABILITY = (8, 0)


class Event(Protocol):
    """Something that happens on the device."""

    def synchronize(self) -> None:
        """Wait until it has happened."""


class Device(Protocol):
    """What decoder.py needs. Memory is a torch tensor of uint8 with one axis; kernels are known by
    name, and have addresses as parameters.
    """

    kernels: frozenset[str]

    def empty(self, n_bytes: int) -> torch.Tensor:
        """New memory of the device, at a multiple of 256."""

    def empty_for_upload(self, n_bytes: int) -> torch.Tensor:
        """The same, for what upload() writes to."""

    def host_empty(self, n_bytes: int) -> torch.Tensor:
        """New memory of the host that can be uploaded while the host goes on."""

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy from the host; later launches see it. What `source` holds may change only after a
        later event.
        """

    def launch(self, kernel: str, n_ctas: int, n_threads: int, *addresses: int) -> None:
        """Start a kernel."""

    def event(self) -> Event:
        """What happens when all that was asked for until now is done."""

    def download(self, source: torch.Tensor) -> NDArray[np.uint8]:
        """Wait for all that was asked for until now, and copy to the host."""


@functools.cache
def ptx() -> bytes:
    """The kernels as the package holds them."""
    return PTX.read_bytes()


@functools.cache
def kernel_names() -> frozenset[str]:
    """The names of the kernels in the PTX."""
    return frozenset(re.findall(r"\.visible \.entry (\w+)", ptx().decode()))


class CudaDevice:
    """One GPU. Raises DeviceError where torch sees none, or one that is too old."""

    def __init__(self, device: torch.device) -> None:
        if not torch.cuda.is_available():
            raise DeviceError(f"{device}: torch {torch.__version__} sees no CUDA GPU")
        index = torch.cuda.current_device() if device.index is None else device.index
        if index >= torch.cuda.device_count():
            raise DeviceError(f"{device}: there are {torch.cuda.device_count()} GPUs")
        capability = torch.cuda.get_device_capability(index)
        if capability < MIN_CAPABILITY:
            raise DeviceError(f"{device}: is of compute capability {capability}, expected 8.0")
        self.kernels = kernel_names()
        self._device = torch.device("cuda", index)
        with torch.cuda.device(index):
            torch.empty(1, device=self._device)  # makes torch's context, and makes it current
            functions = _functions(index, capability)
        if isinstance(functions, str):
            raise DeviceError(f"{device}: {functions}")
        self._functions = functions
        self._uploads = torch.cuda.Stream(self._device)

    def empty(self, n_bytes: int) -> torch.Tensor:
        return torch.empty(n_bytes, dtype=torch.uint8, device=self._device)

    def empty_for_upload(self, n_bytes: int) -> torch.Tensor:
        memory = self.empty(n_bytes)
        # What it was before may be in use on the current stream still.
        self._uploads.wait_stream(torch.cuda.current_stream(self._device))
        return memory

    def host_empty(self, n_bytes: int) -> torch.Tensor:
        return torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        current = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._uploads):
            target.copy_(source, non_blocking=True)
        current.wait_stream(self._uploads)

    def launch(self, kernel: str, n_ctas: int, n_threads: int, *addresses: int) -> None:
        stream = torch.cuda.current_stream(self._device).cuda_stream
        with torch.cuda.device(self._device):
            driver.launch(self._functions[kernel], n_ctas, n_threads, stream, addresses)

    def event(self) -> Event:
        event: Event = torch.cuda.current_stream(self._device).record_event()
        return event

    def download(self, source: torch.Tensor) -> NDArray[np.uint8]:
        data: NDArray[np.uint8] = source.cpu().numpy()
        return data


@functools.cache
def _functions(index: int, capability: tuple[int, int]) -> dict[str, Any] | str:
    """The kernels in the context of a GPU, which is current; or why it cannot have them, which is
    not tried again. Where the driver does not take the PTX, NVRTC compiles their source.
    """
    try:
        try:
            module = driver.Module(ptx())
        except DeviceError as error:
            try:
                module = driver.Module(nvrtc.compile_kernels(capability))
            except DeviceError as second:
                return f"{error}; then {second}"
        return {name: module.function(name) for name in sorted(kernel_names())}
    except DeviceError as error:
        return str(error)


def open_device(device: torch.device) -> Device:
    """The GPU of a torch device. Raises DeviceError where it cannot decode."""
    return CudaDevice(device)


def device_for(name: Any) -> Device | None:
    """The GPU to decode on for a torch device, or None if that is no GPU.

    Raises ValueError for what is no device, DeviceError where there is no GPU; of one that cannot
    decode a warning says why, once, and None is returned.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}: {str(error).splitlines()[0]}") from None
    if device.type != "cuda":
        return None
    try:
        return open_device(device)
    except DeviceError as error:
        if not torch.cuda.is_available():
            raise
        if str(error) not in _said:
            _said.add(str(error))
            warnings.warn(f"{error}; decoding on the CPU", RuntimeWarning, stacklevel=3)
        return None


_said: set[str] = set()  # why GPUs cannot decode
