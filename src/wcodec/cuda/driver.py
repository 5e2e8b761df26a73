# SPDX-License-Identifier: Apache-2.0
"""The few calls of the CUDA driver that torch does not offer: to load a module and to launch its
kernels, through libcuda by ctypes.

The caller has made a context current; torch does that for its primary one. Documented in NVIDIA's
"CUDA Driver API", whose names stand here.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from wcodec.errors import DeviceError

LIBRARY = "libcuda.so.1"
_LOG_BYTES = 8 << 10
_ERROR_LOG_BUFFER, _ERROR_LOG_BUFFER_SIZE_BYTES = 5, 6  # CU_JIT_...
_SUCCESS = 0


@functools.cache
def library() -> ctypes.CDLL:
    """The driver. Raises DeviceError where there is none."""
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise DeviceError(f"no CUDA driver: {error}") from None


def _call(name: str, *arguments: Any) -> None:
    status = getattr(library(), name)(*arguments)
    if status != _SUCCESS:
        raise DeviceError(f"{name}: {_error_text(status)}")


def _error_text(status: int) -> str:
    texts = []
    for function in ("cuGetErrorName", "cuGetErrorString"):
        text = ctypes.c_char_p()
        getattr(library(), function)(status, ctypes.byref(text))
        texts.append((text.value or b"unknown").decode())
    return f"{texts[0]} ({status}): {texts[1]}"


class Module:
    """Kernels in the memory of the GPU whose context is current, from PTX or a cubin.

    It stays loaded as long as the context lives. Raises DeviceError, with what the driver's
    compiler says.
    """

    def __init__(self, image: bytes) -> None:
        self._module = ctypes.c_void_p()
        log = ctypes.create_string_buffer(_LOG_BYTES)
        options = (ctypes.c_int * 2)(_ERROR_LOG_BUFFER, _ERROR_LOG_BUFFER_SIZE_BYTES)
        values = (ctypes.c_void_p * 2)(ctypes.addressof(log), _LOG_BYTES)
        try:
            _call(
                "cuModuleLoadDataEx",
                ctypes.byref(self._module),
                ctypes.c_char_p(image),
                ctypes.c_uint(2),
                options,
                values,
            )
        except DeviceError as error:
            said = log.value.decode(errors="replace").strip()
            raise DeviceError(f"{error}; {said}" if said else str(error)) from None

    def function(self, name: str) -> ctypes.c_void_p:
        """A kernel, by its name."""
        function = ctypes.c_void_p()
        _call("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
        return function


def launch(
    function: ctypes.c_void_p, n_ctas: int, n_threads: int, stream: int, addresses: tuple[int, ...]
) -> None:
    """Launch a kernel whose parameters are addresses on a stream, which is a handle of torch's."""
    parameters = [ctypes.c_uint64(address) for address in addresses]
    pointers = (ctypes.c_void_p * len(parameters))(*map(ctypes.addressof, parameters))
    no_extra, no_shared_memory = None, 0
    _call(
        "cuLaunchKernel",
        function,
        *map(ctypes.c_uint, (n_ctas, 1, 1, n_threads, 1, 1, no_shared_memory)),
        ctypes.c_void_p(stream),
        pointers,
        no_extra,
    )
