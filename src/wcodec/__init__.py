# SPDX-License-Identifier: Apache-2.0
"""wcodec: a lossless codec for neural-network weights.

Public names are imported on first use, so that `import wcodec` and `wcodec --version` cost nothing;
neither torch nor a driver is ever loaded by it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from wcodec._version import __version__

if TYPE_CHECKING:
    from wcodec.codec.plan import LEVELS
    from wcodec.comparing import diff
    from wcodec.decode import decode_array, decode_checkpoint, decode_layer_standalone
    from wcodec.editing import edit_checkpoint, extract
    from wcodec.encode import encode_array, encode_checkpoint, encode_layer_standalone
    from wcodec.errors import (
        CorruptError,
        DeviceError,
        FormatError,
        LimitError,
        PartialError,
        TruncatedError,
        UnsupportedError,
        WcodecError,
    )
    from wcodec.handle import safe_open
    from wcodec.inspection import info, verify
    from wcodec.layers import decode_layer
    from wcodec.limits import ReadLimits
    from wcodec.originals import materialize
    from wcodec.recovery import find_damage, recover
    from wcodec.torch import load_to_torch, load_wcodec_checkpoint
    from wcodec.transformers import from_pretrained

__all__ = [
    "LEVELS",
    "CorruptError",
    "DeviceError",
    "FormatError",
    "LimitError",
    "PartialError",
    "ReadLimits",
    "TruncatedError",
    "UnsupportedError",
    "WcodecError",
    "__version__",
    "decode_array",
    "decode_checkpoint",
    "decode_layer",
    "decode_layer_standalone",
    "diff",
    "edit_checkpoint",
    "encode_array",
    "encode_checkpoint",
    "encode_layer_standalone",
    "extract",
    "find_damage",
    "from_pretrained",
    "info",
    "load_to_torch",
    "load_wcodec_checkpoint",
    "materialize",
    "recover",
    "safe_open",
    "verify",
]

_HOMES = {
    "encode": ("encode_array", "encode_checkpoint", "encode_layer_standalone"),
    "codec.plan": ("LEVELS",),
    "decode": ("decode_array", "decode_checkpoint", "decode_layer_standalone"),
    "comparing": ("diff",),
    "layers": ("decode_layer",),
    "editing": ("edit_checkpoint", "extract"),
    "errors": (
        "CorruptError",
        "DeviceError",
        "FormatError",
        "LimitError",
        "PartialError",
        "TruncatedError",
        "UnsupportedError",
        "WcodecError",
    ),
    "handle": ("safe_open",),
    "inspection": ("info", "verify"),
    "limits": ("ReadLimits",),
    "originals": ("materialize",),
    "recovery": ("find_damage", "recover"),
    "torch": ("load_to_torch", "load_wcodec_checkpoint"),
    "transformers": ("from_pretrained",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'wcodec' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"wcodec.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
