# SPDX-License-Identifier: Apache-2.0
"""A torch tensor that is decoded when it is first needed, and told where to before that.

It has shape and dtype and no storage. Taking part of it decodes that part, `to(device, dtype)` all
of it, and any other operation works on its decoded value. What is decoded is not kept: one use is
one decode. Loaders that call `tensor[...]` and then `.to()`, as transformers does, thus name the
device first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_map

from wcodec.gpu_files import read_many_to, read_to
from wcodec.handle import Slice
from wcodec.safetensors_file import NamedTensor
from wcodec.tensor_files import TensorFile
from wcodec.torch_tensors import tensor_shape, torch_dtype


class LazyTensor(torch.Tensor):  # type: ignore[misc]  # where torch is not installed
    """A tensor of an open file that is not read yet. Read-only; made by lazy_state_dict."""

    _file: TensorFile
    _entry: NamedTensor

    @staticmethod
    def __new__(cls, file: TensorFile, entry: NamedTensor) -> LazyTensor:
        shape = tensor_shape(entry.dtype, entry.shape, entry.data_bytes)
        self: LazyTensor = torch.Tensor._make_wrapper_subclass(
            cls, shape, dtype=torch_dtype(entry.dtype), requires_grad=False
        )
        self._file = file
        self._entry = entry
        return self

    __torch_function__ = torch._C._disabled_torch_function_impl

    def materialize(self, device: Any = None, dtype: Any = None) -> torch.Tensor:
        """Decode to a plain tensor, of `dtype`, on `device`. Raises CorruptError."""
        if device is not None and torch.device(device).type == "meta":
            return torch.empty(self.shape, dtype=dtype or self.dtype, device="meta")
        entry = self._entry
        found: torch.Tensor = read_to(self._file, entry.name, device or "cpu")
        return found.to(dtype=dtype or self.dtype)

    def __getitem__(self, index: Any) -> Any:
        items = index if isinstance(index, tuple) else (index,)
        if all(item is Ellipsis for item in items) or (
            isinstance(index, slice) and index == slice(None) and self.ndim
        ):
            return self
        return Slice(self._file, self._entry, "pt", "cpu")[index]

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Decode, like torch.Tensor.to of the decoded tensor."""
        device, dtype, _, _ = torch._C._nn._parse_to(
            *args, **{k: v for k, v in kwargs.items() if k not in ("copy",) and v is not None}
        )
        return self.materialize(device, dtype)

    def __repr__(self, **_: Any) -> str:
        return f"LazyTensor({self._entry.name!r}, shape={tuple(self.shape)}, dtype={self.dtype})"

    def __deepcopy__(self, memo: Any) -> LazyTensor:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.materialize().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.detach.default:
            return LazyTensor(args[0]._file, args[0]._entry)
        for argument, value in zip(func._schema.arguments, args, strict=False):
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(value, LazyTensor):
                raise RuntimeError(f"{value!r} cannot be written to; call materialize() first")
        args, kwargs = tree_map(_plain, (args, kwargs or {}))
        return func(*args, **kwargs)


def materialize_all(tensors: Mapping[str, torch.Tensor], device: Any) -> dict[str, torch.Tensor]:
    """These tensors on a device; lazy ones are decoded many at once. Raises CorruptError."""
    found = {name: t.to(device) for name, t in tensors.items() if type(t) is not LazyTensor}
    lazy = {name: t for name, t in tensors.items() if type(t) is LazyTensor}
    wanted: dict[TensorFile, list[str]] = {}
    for tensor in lazy.values():
        wanted.setdefault(tensor._file, []).append(tensor._entry.name)
    read = {file: read_many_to(file, names, device) for file, names in wanted.items()}
    return found | {name: read[t._file][t._entry.name] for name, t in lazy.items()}


def _plain(value: Any) -> Any:
    return value.materialize() if isinstance(value, LazyTensor) else value
