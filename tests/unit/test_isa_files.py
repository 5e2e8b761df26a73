# SPDX-License-Identifier: Apache-2.0
"""Files built with ISA flags export nothing that the linker could use for the whole program.

An inline function with external linkage is compiled into every file that uses it and the linker
keeps any one copy: one built for AVX-512 would end a process on a machine without.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

BUILD = Path(__file__).parents[2] / "build/CMakeFiles/wcodec_core.dir/core"
OBJECTS = sorted([*BUILD.glob("*_avx*.o"), *BUILD.glob("*_neon*.o")])


@pytest.mark.skipif(not OBJECTS, reason="no build folder with ISA files beside the tests")
@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: path.name)
def test_no_symbol_is_shared(path):
    symbols = subprocess.run(["nm", "-C", path], check=True, capture_output=True, text=True).stdout
    kinds = {}
    for line in symbols.splitlines():
        kind, name = line[17:].split(" ", 1)
        kinds.setdefault(kind, []).append(name)
    assert not {kind: names for kind, names in kinds.items() if kind in "WwVvu"}
    exported = kinds.get("T", []) + kinds.get("D", []) + kinds.get("R", [])
    # The table of kernels, or functions that say in their names what they need.
    assert exported
    isa = "neon" if "_neon" in path.name else "avx"
    assert all(isa in name.split("(")[0].lower() for name in exported)
