# SPDX-License-Identifier: Apache-2.0
"""safetensors files whose headers say what they like."""

from __future__ import annotations

import json
from pathlib import Path


def write_file(
    directory: Path,
    header: bytes | dict[str, tuple[str, list[int], int, int]],
    data: bytes = b"",
    size: int | None = -1,
) -> Path:
    """Write model.safetensors; `header` is its bytes, or (dtype, shape, begin, end) by name.

    `size` is what the file says the header has, by default the truth; None leaves it out.
    """
    if isinstance(header, dict):
        value = {
            name: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
            for name, (dtype, shape, begin, end) in header.items()
        }
        header = json.dumps(value).encode()
    start = b""
    if size is not None:
        start = (len(header) if size == -1 else size).to_bytes(8, "little")
    path = directory / "model.safetensors"
    path.write_bytes(start + header + data)
    return path
