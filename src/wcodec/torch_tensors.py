# SPDX-License-Identifier: Apache-2.0
"""Bytes of a layer as a torch tensor, and torch tensors as bytes. Imports torch: loaded on request
only.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wcodec.dtypes import bits

_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "I32": "int32",
    "U32": "uint32", "I64": "int64", "U64": "uint64", "F16": "float16", "BF16": "bfloat16",
    "F32": "float32", "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F4": "float4_e2m1fn_x2",
}  # fmt: skip


@functools.cache
def torch_dtype(name: str) -> Any:
    """The torch dtype of a safetensors dtype; uint8 for one that this torch has not, whose bytes
    are then given as packed.
    """
    return getattr(torch, _NAMES.get(name, "uint8"), torch.uint8)


@functools.cache
def dtype_name(dtype: Any) -> str:
    """The safetensors name of a torch dtype. Raises ValueError for one that it has not."""
    for name, torch_name in _NAMES.items():
        if getattr(torch, torch_name, None) is dtype:
            return name
    raise ValueError(f"{dtype} has no safetensors name; known are {', '.join(_NAMES)}")


def tensor_shape(dtype: str, shape: tuple[int, ...], data_bytes: int) -> tuple[int, ...]:
    """Shape of the torch tensor of a layer: two F4 elements are one of torch's; flat bytes where
    torch has no such dtype.
    """
    size = bits(dtype)
    if size is not None and size % 8 == 0:
        return shape
    if dtype == "F4" and shape and shape[-1] % 2 == 0:
        return (*shape[:-1], shape[-1] // 2)
    return (data_bytes,)


def as_tensor(data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> Any:
    """The torch tensor of these bytes, which it shares."""
    return typed(torch.from_numpy(data), dtype, shape)


def typed(data: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    """The same for bytes in a torch tensor of uint8 with one axis, on any device."""
    shape = tensor_shape(dtype, shape, len(data))
    if not len(data):
        return torch.empty(shape, dtype=torch_dtype(dtype), device=data.device)
    return data.view(torch_dtype(dtype)).reshape(shape)


class TorchTensor:
    """A torch tensor to encode, on any device, from which it is copied piece by piece."""

    def __init__(self, name: str, tensor: Any) -> None:
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"tensor {name!r} is {type(tensor).__name__}, expected a torch tensor")
        self.name = name
        self.dtype = dtype_name(tensor.dtype)
        self.shape = tuple(tensor.shape)
        if self.dtype == "F4":
            self.shape = (*self.shape[:-1], 2 * self.shape[-1])
        self.data_bytes = tensor.numel() * tensor.element_size()
        self._tensor = tensor

    def read_into(self, start: int, out: NDArray[np.uint8]) -> None:
        torch.from_numpy(out).copy_(self._bytes()[start : start + len(out)])

    def memory(self) -> NDArray[np.uint8] | None:
        if self._tensor.device.type != "cpu":
            return None
        data: NDArray[np.uint8] = self._bytes().numpy()
        data.flags.writeable = False
        return data

    def _bytes(self) -> Any:
        return self._tensor.detach().contiguous().reshape(-1).view(torch.uint8)
