# SPDX-License-Identifier: Apache-2.0
"""Tensors of files to a device: decoded there if it is a GPU that can, else on the CPU and copied.

Imports torch; a driver is touched only where a GPU is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from wcodec.cuda.decoder import Decoder, decode_layer
from wcodec.cuda.device import Device, device_for
from wcodec.decode import decode_budget
from wcodec.memory import Budget
from wcodec.tensor_files import TensorFile
from wcodec.torch_tensors import as_tensor, typed


def read_to(file: TensorFile, name: str, device: Any) -> torch.Tensor:
    """A tensor of a file, on the device. Raises CorruptError."""
    entry = file.entries[name]
    gpu = None if file.reader is None else device_for(device)
    if gpu is None or file.reader is None:
        found: torch.Tensor = as_tensor(file.read(name), entry.dtype, entry.shape).to(device)
        return found

    return typed(
        decode_layer(file.reader, name, gpu, decode_budget(None)), entry.dtype, entry.shape
    )


def read_all_to(
    homes: Mapping[str, TensorFile], device: Device, budget: Budget
) -> dict[str, torch.Tensor]:
    """Tensors of wcodec files by name, decoded on a GPU. Raises CorruptError; nothing comes back
    then.
    """
    found = {}
    with Decoder(device, budget) as decoder:
        for name, file in homes.items():
            assert file.reader is not None
            entry = file.entries[name]
            found[name] = typed(decoder.decode_named(file.reader, name), entry.dtype, entry.shape)
        decoder.finish()
    return found
