# SPDX-License-Identifier: Apache-2.0
"""Memory is bounded by windows, not by the file: measured in fresh processes
(benchmarks/large_tensor.py).
"""

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "large_tensor.py"


def load():
    spec = importlib.util.spec_from_file_location("large_tensor", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "shape",
    [[200_000_001], pytest.param([50_000, 4000], marks=pytest.mark.slow), [3, 60_000_000]],
)
def test_peak_memory(shape, tmp_path):
    """Some 400 MB each, read and written in windows of 32 MiB."""
    assert max(load().measure(tmp_path, shape)) < 250


@pytest.mark.slow
@pytest.mark.parametrize("shape", [[(1 << 31) + 129], [1 << 16, 1 << 15]])
def test_a_tensor_beyond_4_gib(shape, tmp_path):
    assert max(load().measure(tmp_path, shape)) <= 512
