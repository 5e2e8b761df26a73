# SPDX-License-Identifier: Apache-2.0
"""tools/gpu_check.py on an emulated device: its sections pass on a sound decoder and fail on a
broken one.
"""

import contextlib
import importlib.util
import json
import sys

import pytest
from support.emulated_warp import ROOT, compiler

torch = pytest.importorskip("torch")
if compiler() is None:
    pytest.skip("no C++20 compiler: set CXX", allow_module_level=True)

from support.emulated_device import EmulatedDevice  # noqa: E402

from wcodec.errors import CorruptError  # noqa: E402


def load_tool():
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "tools" / "gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


gpu_check = load_tool()
DECODING = ("correctness", "corrupted", "kernels", "many_tensors")


class BrokenDevice(EmulatedDevice):
    """Its kernels do nothing, and say that all is well."""

    def launch(self, kernel, n_ctas, n_threads, *addresses):
        pass

    def empty(self, n_bytes):
        return super().empty(n_bytes).zero_()

    host_empty = empty_for_upload = EmulatedDevice.empty


def run(name, device):
    return gpu_check.BY_NAME[name](gpu_check.Check(device, gpu_check.SMALL, True))


@pytest.mark.parametrize("name", gpu_check.BY_NAME)
def test_sections(name, monkeypatch):
    monkeypatch.setattr(gpu_check.device_module, "open_device", gpu_check.device_module.open_device)
    found = run(name, EmulatedDevice())
    assert found
    json.dumps(found)
    if name == "corrupted":
        assert found["refused"] > 0
        assert found["same"] > 0
    if name == "end_to_end":
        assert found["cold"]["wcodec_seconds"] > 0
        assert found["cold"]["read_bytes_per_second"] > 0
        lines = gpu_check.table(
            {other: {"error": "x"} for other in gpu_check.BY_NAME}
            | {name: {**found, "took_seconds": 1}}
        )
        assert any("read: " in line for line in lines)
    if name == "kernels":
        assert len({row["form"] for row in found["rows"]}) >= 6
        assert "spatial" in {row["form"] for row in found["rows"]}


@pytest.mark.parametrize("name", DECODING)
def test_sections_see_a_broken_decoder(name):
    with pytest.raises((AssertionError, CorruptError)):
        run(name, BrokenDevice())


@pytest.mark.parametrize("is_sound", [True, False])
def test_graphs(monkeypatch, is_sound):
    """Of a device whose graphs keep the launches that were captured, or none of them."""
    device = EmulatedDevice()
    launch = device.launch
    captured = []

    class Graph:
        def replay(self):
            for arguments in captured if is_sound else ():
                launch(*arguments)

    @contextlib.contextmanager
    def capture(graph):
        device.launch = lambda *arguments: captured.append(arguments)
        yield
        device.launch = launch

    class Event:
        def __init__(self, **options):
            pass

        def record(self):
            pass

        def synchronize(self):
            device.wait()

        def elapsed_time(self, after):
            return 1.0

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    check = gpu_check.Check(device, gpu_check.SMALL, False)
    if is_sound:
        assert gpu_check.graph(check)["launches"] == len(captured) > 1
    else:
        with pytest.raises(AssertionError):
            gpu_check.graph(check)


def test_one_byte_too_many_is_seen():
    class Overrunning(EmulatedDevice):
        def launch(self, kernel, n_ctas, n_threads, *addresses):
            super().launch(kernel, n_ctas, n_threads, *addresses)
            self._queue.append(lambda: self.last.__setitem__(slice(-130, -129), 0))

        def empty(self, n_bytes):
            memory = super().empty(n_bytes)
            if n_bytes > 600:
                self.last = memory
            return memory

        host_empty = empty_for_upload = EmulatedDevice.empty

    with pytest.raises(AssertionError, match=r"have changed|differs"):
        run("correctness", Overrunning())


def test_failures_are_reported(tmp_path, monkeypatch, capsys):
    results = gpu_check.run_all(tmp_path, 0, True)
    assert all(results[name] == {"error": "no time was left"} for name in gpu_check.BY_NAME)
    monkeypatch.setattr(gpu_check, "SECTIONS", {gpu_check.load: 60})
    monkeypatch.setattr(gpu_check, "BY_NAME", {"load": gpu_check.load})
    if not torch.cuda.is_available():
        results = gpu_check.run_all(tmp_path, 100, False)
        assert "sees no CUDA GPU" in results["load"]["error"]
        assert "FAILED" in gpu_check.table(results)[0]
    results = gpu_check.run_all(tmp_path, 100, True)
    assert results["load"]["kernels"] == len(EmulatedDevice().kernels)
    assert json.loads((tmp_path / "gpu_check.json").read_text()) == results
