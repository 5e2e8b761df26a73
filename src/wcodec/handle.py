# SPDX-License-Identifier: Apache-2.0
"""`wcodec.safe_open`: a file whose tensors are read one by one or in part, with the calls and the
errors of safetensors' safe_open, for wcodec and for safetensors files.

Every tensor is fresh, writable memory: safetensors' own are views of one mapping. A slice keeps the
file open, as there, though the handle is closed.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wcodec.decode import as_array, decode_budget
from wcodec.dtypes import bits
from wcodec.errors import WcodecError
from wcodec.indexing import numpy_selection, torch_selection
from wcodec.limits import ReadLimits
from wcodec.safetensors_file import NamedTensor
from wcodec.tensor_files import TensorFile, open_file

FRAMEWORKS = {"pt": "pt", "torch": "pt", "pytorch": "pt", "np": "np", "numpy": "np"}
BACKENDS = ("mmap", "pread")
_DEVICES = {"cpu", "cuda", "musa", "npu", "xpu", "xla", "mlu", "hpu", "mps"}


class safe_open:  # the name that safetensors gave it
    """Open a wcodec or safetensors file and give its tensors one by one.

    `framework` is "pt" (torch) or "np" (numpy, with ml_dtypes for bfloat16 and fp8; needs no
    torch). `device` is where torch tensors go, a name or the number of a GPU, which decodes them
    where it can. `backend` is there for safetensors' sake and changes nothing: wcodec reads at
    offsets. `threads` and `limits` are those of decode_checkpoint. Methods may be called from
    several threads at once.

    Raises what safetensors raises, with its texts: FileNotFoundError, WcodecError (which is a
    SafetensorError); FormatError for a file that is not valid.

    >>> import numpy as np, os, tempfile, wcodec
    >>> path = os.path.join(tempfile.mkdtemp(), "a.wcodec")
    >>> _ = wcodec.encode_checkpoint({"a": np.arange(6).reshape(2, 3)}, path)
    >>> with safe_open(path, framework="np") as file:
    ...     file.keys(), file.get_slice("a")[:, -1]
    (['a'], array([2, 5]))
    """

    def __init__(
        self,
        filename: str | os.PathLike[str],
        framework: str,
        device: str | int = "cpu",
        *,
        backend: str = "mmap",
        threads: int | None = None,
        limits: ReadLimits | None = None,
    ) -> None:
        self._framework = FRAMEWORKS.get(framework, "")
        if not self._framework:
            raise WcodecError(f"framework {framework} is invalid")
        if backend not in BACKENDS:
            raise WcodecError(f'backend "{backend}" is invalid (expected one of: "mmap", "pread")')
        self._device = _device(device)
        if self._framework == "np" and self._device != "cpu":
            raise WcodecError(f"Device {self._device} is not supported for framework numpy")
        path = os.fspath(filename)
        if not os.path.exists(path):
            raise FileNotFoundError(f"No such file or directory: {path}")
        self._open: TensorFile | None = open_file(path, decode_budget(threads), limits)

    def __enter__(self) -> safe_open:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = None

    @property
    def _file(self) -> TensorFile:
        if self._open is None:
            raise WcodecError("File is closed")
        return self._open

    def keys(self) -> list[str]:
        """Return the names of the tensors, sorted."""
        return sorted(self._file.entries)

    def offset_keys(self) -> list[str]:
        """Return the names of the tensors in the order of their data."""
        return list(self._file.entries)

    def metadata(self) -> dict[str, str] | None:
        """Return the `__metadata__` of the file, or None."""
        metadata = self._file.metadata
        return None if metadata is None else dict(metadata)

    def __contains__(self, name: object) -> bool:
        return name in self._file.entries

    def get_tensor(self, name: str) -> Any:
        """Return a tensor. Raises WcodecError if there is none of this name."""
        entry = self._entry(name)
        if self._device != "cpu":
            from wcodec.gpu_files import read_to

            return read_to(self._file, name, self._device)
        return _array(self._file.read(name), entry, self._framework, self._device)

    def get_tensors(self) -> dict[str, Any]:
        """Return all tensors by name."""
        file = self._file
        if self._device != "cpu":
            from wcodec.gpu_files import read_many_to

            return read_many_to(file, file.entries, self._device)
        return {
            name: _array(data, file.entries[name], self._framework, self._device)
            for name, data in file.read_all(file.entries)
        }

    def get_slice(self, name: str) -> Slice:
        """Return a tensor to take parts of; nothing is read yet."""
        return Slice(self._file, self._entry(name), self._framework, self._device)

    def info(self, name: str) -> dict[str, Any]:
        """Return what wcodec.info says about a layer: `bytes`, `family`, `bits_per_weight` ..."""
        self._entry(name)
        return self._file.info(name)

    def verify(self) -> dict[str, Any]:
        """Check every checksum of the file, like wcodec.verify. Raises CorruptError."""
        return self._file.verify()

    @property
    def blocks_decoded(self) -> int:
        """How many blocks have been decoded so far for the tensors and slices of this handle."""
        return self._file.n_blocks

    def _entry(self, name: str) -> NamedTensor:
        if not isinstance(name, str):
            found = type(name).__name__
            raise TypeError(f"argument 'name': '{found}' object is not an instance of 'str'")
        try:
            return self._file.entries[name]
        except KeyError:
            raise WcodecError(f"File does not contain tensor {name}") from None


class Slice:
    """A tensor of an open file, of which `slice_[...]` reads and decodes no more blocks than it
    touches.
    """

    def __init__(self, file: TensorFile, entry: NamedTensor, framework: str, device: str) -> None:
        self._file = file
        self._entry = entry
        self._framework = framework
        self._device = device

    def get_shape(self) -> list[int]:
        """Return the shape of the whole tensor, as in the header."""
        return list(self._entry.shape)

    def get_dtype(self) -> str:
        """Return the safetensors name of the dtype."""
        return self._entry.dtype

    def __getitem__(self, index: Any) -> Any:
        entry = self._entry
        if self._device != "cpu":
            from wcodec.gpu_files import read_part_to

            found = read_part_to(self._file, entry.name, index, self._device)
            if found is not None:
                return found
        is_torch = self._framework == "pt"
        selection_of = torch_selection if is_torch else numpy_selection
        size = bits(entry.dtype)
        if size is None or size % 8:  # packed: elements are no positions of the bytes
            whole = _array(self._file.read(entry.name), entry, self._framework, self._device)
            return whole[index]
        selection = selection_of(index, entry.shape)
        if not entry.shape or selection.is_whole(entry.shape):
            data = self._file.read(entry.name)
        else:
            data = self._file.read_selection(entry.name, selection.positions)
        shape = tuple(len(places) for places in selection.positions)
        if is_torch:
            from wcodec.torch_tensors import as_tensor

            return as_tensor(data, entry.dtype, shape)[selection.key].to(self._device)
        return np.asarray(as_array(data, entry.dtype, shape)[selection.key])


def _array(data: NDArray[np.uint8], entry: NamedTensor, framework: str, device: str) -> Any:
    if framework == "np":
        return as_array(data, entry.dtype, entry.shape)
    from wcodec.torch_tensors import as_tensor

    tensor = as_tensor(data, entry.dtype, entry.shape)
    return tensor if device == "cpu" else tensor.to(device)


def _device(device: str | int) -> str:
    if isinstance(device, int) and not isinstance(device, bool):
        return f"cuda:{device}"
    kind, _, number = str(device).partition(":")
    if kind not in _DEVICES or (number and not number.isdecimal()):
        raise WcodecError(f"device {device} is invalid")
    return f"{kind}:{number or 0}" if kind != "cpu" else kind
