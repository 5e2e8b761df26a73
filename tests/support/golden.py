# SPDX-License-Identifier: Apache-2.0
"""The golden files, and the SHA-256 of each layer of theirs that their manifest promises."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFEST = {
    file: entry["layers"]
    for manifest in sorted(GOLDEN.glob("*_manifest.json"))
    for file, entry in json.loads(manifest.read_text()).items()
}


def digests(arrays) -> dict[str, str]:
    return {name: hashlib.sha256(a.tobytes()).hexdigest() for name, a in arrays.items()}
