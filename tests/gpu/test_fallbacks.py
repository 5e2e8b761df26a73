# SPDX-License-Identifier: Apache-2.0
"""Where a driver does not take the PTX: NVRTC, then the CPU."""

import ctypes
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from wcodec.cuda import device as device_module  # noqa: E402
from wcodec.cuda import driver, nvrtc  # noqa: E402
from wcodec.cuda.device import CudaDevice, device_for, kernel_names  # noqa: E402
from wcodec.errors import DeviceError  # noqa: E402


class FakeDriver:
    """A libcuda that takes cubins, or nothing."""

    def __init__(self, takes: bytes) -> None:
        self.takes = takes
        self.images: list[bytes] = []

    def cuModuleLoadDataEx(self, module, image, n, options, values):
        self.images.append(image.value)
        return 0 if self.takes and image.value.startswith(self.takes) else 222

    def cuModuleGetFunction(self, function, module, name):
        return 0 if name.decode() in kernel_names() else 500

    def cuGetErrorName(self, status, text):
        ctypes.cast(text, ctypes.POINTER(ctypes.c_char_p))[0] = b"CUDA_ERROR_UNSUPPORTED_PTX"
        return 0

    cuGetErrorString = cuGetErrorName


@pytest.fixture
def gpu(monkeypatch):
    """A torch that says it has a GPU, and a driver for it."""

    def make(takes: bytes) -> FakeDriver:
        fake = FakeDriver(takes)
        monkeypatch.setattr(driver, "library", lambda: fake)
        return fake

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", lambda index: warnings.catch_warnings())
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(device_module.torch, "empty", lambda *shape, **options: np.empty(shape))
    device_module._functions.cache_clear()
    device_module._said.clear()
    yield make
    device_module._functions.cache_clear()
    device_module._said.clear()


def test_ptx_is_enough(gpu, monkeypatch):
    monkeypatch.setattr(nvrtc, "compile_kernels", lambda capability: pytest.fail("not asked for"))
    fake = gpu(b".version")
    assert CudaDevice(torch.device("cuda")).kernels == kernel_names()
    assert len(fake.images) == 1


def test_nvrtc_where_the_ptx_is_refused(gpu, monkeypatch):
    asked = []
    monkeypatch.setattr(
        nvrtc, "compile_kernels", lambda capability: asked.append(capability) or b"cubin"
    )
    fake = gpu(b"cubin")
    CudaDevice(torch.device("cuda"))
    CudaDevice(torch.device("cuda", 0))
    assert asked == [(9, 0)]
    assert fake.images[1:] == [b"cubin"]


def test_the_cpu_where_nothing_is_taken(gpu, monkeypatch):
    def refuse(capability):
        raise DeviceError("no libnvrtc.so.13 or libnvrtc.so.12")

    monkeypatch.setattr(nvrtc, "compile_kernels", refuse)
    fake = gpu(b"")
    with pytest.warns(RuntimeWarning, match=r"UNSUPPORTED_PTX.*no libnvrtc.*decoding on the CPU"):
        assert device_for("cuda") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert device_for("cuda") is None  # said once, tried once
    assert len(fake.images) == 1


def test_headers_are_those_of_the_kernels():
    source = (nvrtc.KERNELS / nvrtc.SOURCE).read_text()
    found = nvrtc.headers()
    for text in [source, *(data.decode() for data in found.values())]:
        for line in text.splitlines():
            if line.startswith('#include "'):
                assert line.split('"')[1] in found


def test_nvrtc_compiles_the_source():
    try:
        nvrtc.library()
    except DeviceError as error:
        pytest.skip(f"{error}: pip install nvidia-cuda-nvrtc")
    cubin = nvrtc.compile_kernels((9, 0))
    assert all(name.encode() in cubin for name in kernel_names())


def test_what_nvrtc_says_is_told():
    try:
        nvrtc.library()
    except DeviceError as error:
        pytest.skip(f"{error}: pip install nvidia-cuda-nvrtc")
    with pytest.raises(DeviceError, match=r"nvrtcCompileProgram.*arch"):
        nvrtc.compile_kernels((1, 1))
