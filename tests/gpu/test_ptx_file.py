# SPDX-License-Identifier: Apache-2.0
"""The PTX in the package is what the kernels compile to."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from support.cuda_toolkit import ALL_KERNELS, nvcc, nvcc_release
from support.emulated_warp import KERNELS, ROOT

PTX = KERNELS / "kernels.ptx"
PINS = Path(__file__).with_name("kernel_counts.json")


def test_kernels_and_target():
    text = PTX.read_text()
    assert text.startswith(".version 7.4\n.target sm_80\n.address_size 64\n")
    found = re.findall(r"\.visible \.entry (\w+)", text)
    assert sorted(found) == sorted(ALL_KERNELS)


@pytest.mark.skipif(nvcc() is None, reason="no nvcc: not on PATH nor in $CUDA_HOME")
def test_it_is_what_the_compiler_makes(tmp_path):
    pinned = json.loads(PINS.read_text())["nvcc"]
    if pinned != nvcc_release():
        pytest.skip(f"the PTX is of nvcc {pinned}, this is {nvcc_release()}")
    subprocess.run([ROOT / "scripts" / "build_ptx.sh", tmp_path / "ptx"], check=True)
    assert (tmp_path / "ptx").read_text() == PTX.read_text(), "run scripts/build_ptx.sh"
