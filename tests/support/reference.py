# SPDX-License-Identifier: Apache-2.0
"""tools/reference_decoder.py as a module."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


@functools.cache
def reference_decoder() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "reference_decoder.py"
    spec = importlib.util.spec_from_file_location("reference_decoder", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference_decoder"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
