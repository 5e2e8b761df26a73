# SPDX-License-Identifier: Apache-2.0
"""Tensors of files, or parts of them, to a device: decoded there if it is a GPU that can, else on
the CPU and copied.

Imports torch; a driver is touched only where a GPU is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from wcodec.cuda.decoder import Decoder
from wcodec.cuda.device import Device, device_for
from wcodec.decode import decode_budget
from wcodec.dtypes import bits
from wcodec.indexing import torch_selection
from wcodec.memory import Budget
from wcodec.tensor_files import TensorFile
from wcodec.torch_tensors import as_tensor, typed


def read_to(file: TensorFile, name: str, device: Any) -> torch.Tensor:
    """A tensor of a file, on the device. Raises CorruptError, DeviceError."""
    found = read_part_to(file, name, Ellipsis, device)
    if found is None:
        entry = file.entries[name]
        found = as_tensor(file.read(name), entry.dtype, entry.shape).to(device)
    return found


def read_part_to(file: TensorFile, name: str, index: Any, device: Any) -> torch.Tensor | None:
    """What tensor[index] would be of a tensor of a file, on a GPU; only the blocks that it touches
    are read. None if the device is no GPU that can decode, or the file no wcodec file.

    Raises CorruptError, DeviceError and what torch raises for the index.
    """
    gpu = None if file.reader is None else device_for(device)
    if gpu is None:
        return None
    return read_all_to({name: file}, gpu, decode_budget(None), {name: index})[name]


def read_many_to(file: TensorFile, names: Iterable[str], device: Any) -> dict[str, torch.Tensor]:
    """These tensors of a file, on the device. Raises CorruptError, DeviceError."""
    gpu = None if file.reader is None else device_for(device)
    if gpu is not None:
        return read_all_to(dict.fromkeys(names, file), gpu, decode_budget(None), {})
    return {
        name: as_tensor(data, file.entries[name].dtype, file.entries[name].shape).to(device)
        for name, data in file.read_all(names)
    }


def read_all_to(
    homes: Mapping[str, TensorFile],
    device: Device,
    budget: Budget,
    slices: Mapping[str, Any],
) -> dict[str, torch.Tensor]:
    """Tensors of wcodec files by name, decoded on a GPU; of those in `slices` the part that this
    index says. Raises CorruptError; nothing comes back then.
    """
    with Decoder(device, budget) as decoder:
        queued = {
            name: _queue(decoder, file, name, slices.get(name, Ellipsis))
            for name, file in homes.items()
        }
        decoder.finish()
    return {name: tensor() for name, tensor in queued.items()}


def _queue(decoder: Decoder, file: TensorFile, name: str, index: Any) -> Callable[[], torch.Tensor]:
    """Begin to decode tensor[index]; the result gives it when the decoder has finished."""
    assert file.reader is not None
    entry = file.entries[name]
    layer = file.reader.open_layer(file.reader.resolve(name).name)
    before = decoder.n_blocks
    size = bits(entry.dtype)
    shape, key, positions = entry.shape, index, None
    # Of packed types elements are no positions of the bytes, nor are they under another shape.
    if index is not Ellipsis and size and size % 8 == 0 and shape and shape == layer.head.shape:
        selection = torch_selection(index, shape)
        if not selection.is_whole(shape):
            positions, key = selection.positions, selection.key
            shape = tuple(map(len, positions))
    data = decoder.decode(layer) if positions is None else decoder.decode_part(layer, positions)
    file.count_blocks(decoder.n_blocks - before)
    if key is Ellipsis:
        return lambda: typed(data, entry.dtype, shape)
    return lambda: typed(data, entry.dtype, shape)[key]
