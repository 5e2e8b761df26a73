# SPDX-License-Identifier: Apache-2.0
"""Load and save torch tensors and models: safetensors.torch's calls, for wcodec and safetensors
files, and lazy state dicts of files and directories.

Nothing half-loaded comes back: tensors are decoded before a model is touched.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors.torch import _find_shared_tensors, _remove_duplicate_names

from wcodec.codec import batch
from wcodec.conversions import in_names_of
from wcodec.cuda.device import device_for
from wcodec.decode import decode_budget
from wcodec.encode import encode_checkpoint
from wcodec.gpu_files import read_all_to
from wcodec.handle import Slice, safe_open
from wcodec.lazy_tensor import LazyTensor, materialize_all
from wcodec.limits import ReadLimits
from wcodec.tensor_files import TensorFile, is_wcodec, open_checkpoint, open_source
from wcodec.torch_tensors import TorchTensor, as_tensor

__all__ = [
    "LazyTensor",
    "LoadResult",
    "lazy_state_dict",
    "load",
    "load_file",
    "load_model",
    "load_to_torch",
    "load_wcodec_checkpoint",
    "save",
    "save_file",
    "save_model",
]

Path = str | os.PathLike[str]


def load_file(
    filename: Path, device: str | int = "cpu", *, backend: str = "mmap", threads: int | None = None
) -> dict[str, torch.Tensor]:
    """Load all tensors of a wcodec or safetensors file; arguments and errors are safe_open's."""
    with safe_open(filename, "pt", device, backend=backend, threads=threads) as file:
        return file.get_tensors()


def load(data: bytes, *, threads: int | None = None) -> dict[str, torch.Tensor]:
    """Load all tensors of the bytes of a wcodec or safetensors file."""
    if not is_wcodec(data):
        return safetensors.torch.load(data)
    file = open_source(io.BytesIO(data), decode_budget(threads))
    return {
        name: as_tensor(data, file.entries[name].dtype, file.entries[name].shape)
        for name, data in file.read_all(file.entries)
    }


def save_file(
    tensors: Mapping[str, torch.Tensor],
    filename: Path,
    metadata: Mapping[str, str] | None = None,
    *,
    level: str = "default",
    threads: int | None = None,
) -> None:
    """Save tensors, on any device, as a wcodec file.

    Refuses what safetensors.torch.save_file refuses: TypeError for what is no dict and ValueError
    for what is no dense, contiguous tensor, RuntimeError for tensors that share memory (save_model
    stores those once). Raises what encode_checkpoint raises.
    """
    encode_checkpoint(
        checked(tensors), os.fspath(filename), metadata=metadata, level=level, threads=threads
    )


def save(
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    level: str = "default",
    threads: int | None = None,
) -> bytes:
    """Return the bytes of the file that save_file writes."""
    to_encode = checked(tensors)
    file = batch.bytes_file(sum(tensor.data_bytes for tensor in to_encode.values()))
    encode_checkpoint(
        to_encode, file, metadata=metadata, level=level, threads=threads, duplicates=True
    )
    file.truncate()
    return file.getvalue()


def checked(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Tensors as encode_checkpoint takes them; raises what save_file does."""
    if not isinstance(tensors, Mapping):
        raise ValueError(
            f"Expected a dict of [str, torch.Tensor] but received {type(tensors).__name__}"
        )
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(
                f"Key `{name}` is invalid, expected torch.Tensor but received "
                f"{type(tensor).__name__}"
            )
        if tensor.layout != torch.strided:
            raise ValueError(f"tensor {name!r} is sparse, expected a dense one; use .to_dense()")
        if not tensor.is_contiguous():
            raise ValueError(f"tensor {name!r} is not contiguous; use .contiguous()")
    for names in _find_shared_tensors(dict(tensors)):
        if len(names) > 1:
            raise RuntimeError(
                f"Some tensors share memory: {sorted(names)}; save_model stores them once"
            )
    return {name: TorchTensor(name, tensor) for name, tensor in tensors.items()}


def save_model(
    model: torch.nn.Module,
    filename: Path,
    metadata: Mapping[str, str] | None = None,
    force_contiguous: bool = True,
    *,
    level: str = "default",
    threads: int | None = None,
) -> None:
    """Save the state dict of a model; of parameters that share memory one is stored, and the
    metadata maps the names of the others to it, as safetensors.torch.save_model does.
    """
    state = model.state_dict()
    metadata = dict(metadata or {})
    for kept, removed in _remove_duplicate_names(state).items():
        for name in removed:
            metadata.setdefault(name, kept)
            del state[name]
    if force_contiguous:
        state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, filename, metadata, level=level, threads=threads)


def load_model(
    model: torch.nn.Module,
    filename: Path,
    strict: bool = True,
    device: str | int = "cpu",
    *,
    backend: str = "mmap",
    threads: int | None = None,
) -> tuple[set[str], list[str]]:
    """Load a file that save_model wrote, of either format, into a model.

    Returns the names that are missing (as a set) and those that the model has not. Raises
    RuntimeError for either with `strict`, and for shapes that differ; the model is then as it was.
    """
    state = load_file(filename, device, backend=backend, threads=threads)
    dropped = _remove_duplicate_names(model.state_dict(), preferred_names=list(state))
    aliases = {name for names in dropped.values() for name in names}
    _refuse_shapes(model, {name: tuple(tensor.shape) for name, tensor in state.items()})
    found = model.state_dict().keys()
    missing = found - state.keys() - aliases
    unexpected = sorted(state.keys() - (found - aliases))
    if strict and (missing or unexpected):
        _raise_keys(model, missing, unexpected)
    model.load_state_dict(state, strict=False)
    return missing, unexpected


def _refuse_shapes(model: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    wrong = _mismatched(model, shapes)
    if wrong:
        lines = [f"Error(s) in loading state_dict for {type(model).__name__}:", *wrong.values()]
        raise RuntimeError("\n    ".join(lines))


def _mismatched(model: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """What is wrong with the shape of each tensor that differs from the model's."""
    return {
        name: f"size mismatch for {name}: {shapes[name]} in the file, "
        f"{tuple(tensor.shape)} in the model"
        for name, tensor in model.state_dict().items()
        if name in shapes and shapes[name] != tuple(tensor.shape)
    }


def _raise_keys(
    model: torch.nn.Module, missing: set[str] | list[str], unexpected: list[str]
) -> None:
    lines = [f"Error(s) in loading state_dict for {type(model).__name__}:"]
    for what, names in (("Missing", sorted(missing)), ("Unexpected", unexpected)):
        if names:
            quoted = ", ".join(f'"{name}"' for name in names)
            lines.append(f"{what} key(s) in state_dict: {quoted}")
    raise RuntimeError("\n    ".join(lines))


# ---- Files and directories ----


def lazy_state_dict(
    path: Path,
    *,
    variant: str | None = None,
    threads: int | None = None,
    limits: ReadLimits | None = None,
) -> dict[str, LazyTensor]:
    """Map the names of the tensors of a file, or of the model in a directory, to LazyTensors.

    Nothing is decoded yet; the files stay open while one of the tensors is there. Raises
    FileNotFoundError for a directory without wcodec files, CorruptError where its index and shards
    disagree, and what safe_open raises.
    """
    checkpoint = open_checkpoint(path, decode_budget(threads), limits, variant)
    return {name: LazyTensor(file, file.entries[name]) for name, file in checkpoint.homes.items()}


def load_to_torch(
    path: Path,
    device: str = "cpu",
    slices: Mapping[str, Any] | None = None,
    *,
    use_gpu_decode: bool = True,
    variant: str | None = None,
    threads: int | None = None,
    limits: ReadLimits | None = None,
) -> dict[str, torch.Tensor]:
    """Load the tensors of a file, or of the model in a directory, or parts of them, to a device.

    `slices` maps names of tensors to what would stand in the brackets of get_slice(name)[...]; of
    those only the blocks that are touched are read and decoded. On a CUDA device tensors cross the
    bus as they are stored and are decoded there; what docs/guide/gpu.md names is decoded on the CPU
    and copied, and so is everything without `use_gpu_decode` or, with a RuntimeWarning, on a GPU
    that cannot decode. Beside the tensors that takes at most 512 MiB; small ones are side by side
    in memory that goes with the last of them.

    Raises KeyError for a name in `slices` that no tensor has, DeviceError for a device that is not
    there, and what lazy_state_dict raises.
    """
    budget = decode_budget(threads)
    checkpoint = open_checkpoint(path, budget, limits, variant)
    slices = slices or {}
    unknown = sorted(slices.keys() - checkpoint.homes.keys())
    if unknown:
        raise KeyError(f"{os.fspath(path)}: has no tensor {unknown[0]!r:.200}")
    gpu = device_for(device) if use_gpu_decode else None
    found: dict[str, torch.Tensor] = {}
    if gpu is not None:
        homes = {name: file for name, file in checkpoint.homes.items() if file.reader is not None}
        found = read_all_to(homes, gpu, budget, slices)
    whole: dict[TensorFile, list[str]] = {}
    for name, file in checkpoint.homes.items():
        if name in slices and name not in found:
            found[name] = Slice(file, file.entries[name], "pt", "cpu")[slices[name]].to(device)
        elif name not in found:
            whole.setdefault(file, []).append(name)
    for file, names in whole.items():
        for name, data in file.read_all(names):
            entry = file.entries[name]
            found[name] = as_tensor(data, entry.dtype, entry.shape).to(device)
    return {name: found[name] for name in checkpoint.homes}


class LoadResult(NamedTuple):
    """What load_wcodec_checkpoint could not match: names of the model's that the files have not, of
    the files' that the model has not, and of both whose shapes differ.
    """

    missing_keys: list[str]
    unexpected_keys: list[str]
    mismatched_keys: list[str]


def load_wcodec_checkpoint(
    model_or_none: torch.nn.Module | None,
    path: Path,
    *,
    strict: bool = True,
    device: str = "cpu",
    variant: str | None = None,
    threads: int | None = None,
    limits: ReadLimits | None = None,
) -> LoadResult | dict[str, torch.Tensor]:
    """Load a file, or the model in a directory, into a model; without a model return the tensors.

    All tensors are decoded before the model is touched. Its parameters keep their dtype and device
    and are copied into, those on the meta device are replaced by the tensors on `device`; tied ones
    stay tied. With `strict` RuntimeError is raised for names that are missing or too many and for
    shapes that differ; without, those tensors are left alone and named in the result. A model of
    transformers 5 gets what its files have under other names (joined experts ...). Raises what
    load_to_torch raises.
    """
    if model_or_none is None:
        return load_to_torch(path, device, variant=variant, threads=threads, limits=limits)
    model = model_or_none
    lazy = lazy_state_dict(path, variant=variant, threads=threads, limits=limits)
    state, misshapen = in_names_of(model, lazy, strict)
    own = model.state_dict(keep_vars=True)
    loaded = {
        id(tensor) for name, tensor in own.items() if name in state
    }  # of tied ones one will do
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wrong = _mismatched(model, shapes)
    result = LoadResult(
        [
            name
            for name, tensor in own.items()
            if name not in state and id(tensor) not in loaded and name not in misshapen
        ],
        sorted(state.keys() - own.keys()),
        sorted({*wrong, *misshapen}),
    )
    if strict and wrong:
        _refuse_shapes(model, shapes)
    if strict and (result.missing_keys or result.unexpected_keys):
        _raise_keys(model, result.missing_keys, result.unexpected_keys)
    names = [name for name in own if name in state and name not in wrong]
    decoded = materialize_all({name: state[name] for name in names}, device)
    replaced: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for name in names:
            tensor = decoded.pop(name)
            if own[name].is_meta:
                replaced[id(own[name])] = _like(own[name], tensor)
            else:
                own[name].copy_(tensor)
    for name, tensor in own.items():
        if id(tensor) in replaced:
            _set(model, name, replaced[id(tensor)])
    return result


def _like(own: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in the dtype of the model's own, and a parameter if that is one."""
    tensor = tensor.to(own.dtype)
    if isinstance(own, torch.nn.Parameter):
        return torch.nn.Parameter(tensor, requires_grad=own.requires_grad)
    return tensor


def _set(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    home: Any = module._parameters if leaf in module._parameters else module._buffers
    home[leaf] = tensor
