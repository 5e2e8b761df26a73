# SPDX-License-Identifier: Apache-2.0
"""The kernels compiled from their source by NVRTC, the compiler that comes with torch, where a
driver does not take the PTX of the package. Documented in NVIDIA's "NVRTC", whose names stand here.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sysconfig
from pathlib import Path
from typing import Any

from wcodec.errors import DeviceError

KERNELS = Path(__file__).with_name("kernels")
# What the core shares with the kernels is beside them in an installed package, else in a checkout.
CORE_HEADERS = ("gpu_descriptors.hpp", "stream_format.hpp")
SOURCE = "kernels.cu"
MAJORS = (13, 12)
_SUCCESS = 0


@functools.cache
def library() -> ctypes.CDLL:
    """NVRTC. Raises DeviceError where there is none."""
    names = [f"libnvrtc.so.{major}" for major in MAJORS]
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    found = [str(path) for name in names for path in sorted(packages.glob(f"*/lib/{name}"))]
    # It opens this library by its name alone, and does not look beside itself.
    for path in packages.glob("*/lib/libnvrtc-builtins.so.*"):
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(path))
    for name in [*names, *found]:  # first one that torch has loaded
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise DeviceError(f"no {' or '.join(names)}")


def _call(name: str, *arguments: Any) -> None:
    status = getattr(library(), name)(*arguments)
    if status != _SUCCESS:
        text = library().nvrtcGetErrorString
        text.restype = ctypes.c_char_p
        raise DeviceError(f"{name}: {text(status).decode()}")


def headers() -> dict[str, bytes]:
    """The headers of the kernels by name."""
    found = {path.name: path.read_bytes() for path in sorted(KERNELS.glob("*.hpp"))}
    for name in CORE_HEADERS:
        if name not in found:
            found[name] = (KERNELS.parents[3] / "core" / name).read_bytes()
    return found


def compile_kernels(capability: tuple[int, int]) -> bytes:
    """The kernels as a cubin for GPUs of this compute capability. Raises DeviceError, with what
    the compiler says.
    """
    try:
        included = headers()
        source = (KERNELS / SOURCE).read_bytes()
    except OSError as error:
        raise DeviceError(f"no source of the kernels: {error}") from None
    program = ctypes.c_void_p()
    n = len(included)
    _call(
        "nvrtcCreateProgram",
        ctypes.byref(program),
        source,
        SOURCE.encode(),
        n,
        (ctypes.c_char_p * n)(*included.values()),
        (ctypes.c_char_p * n)(*(name.encode() for name in included)),
    )
    try:
        options = [b"-std=c++20", b"-arch=sm_%d%d" % capability]
        try:
            _call("nvrtcCompileProgram", program, len(options), (ctypes.c_char_p * 2)(*options))
        except DeviceError as error:
            log = _read(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog")
            said = log.rstrip(b"\0").decode(errors="replace").strip()
            raise DeviceError(f"{error}; {said[:2000]}") from None
        return _read(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")
    finally:
        _call("nvrtcDestroyProgram", ctypes.byref(program))


def _read(program: ctypes.c_void_p, size_of: str, read: str) -> bytes:
    size = ctypes.c_size_t()
    _call(size_of, program, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    _call(read, program, data)
    return data.raw
