# SPDX-License-Identifier: Apache-2.0
"""Write seeds for the fuzz targets of blocks: a block of each kind in the golden files, and some of
its changes. Usage: seeds.py DIRECTORY
"""

import hashlib
import sys
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.golden_blocks import HEADER_BYTES, golden_blocks, mutations  # noqa: E402

TARGETS = {0: "block_raw", 2: "block_rans16", 3: "block_rans32", 4: "block_spatial"}


def main() -> None:
    for block in golden_blocks():
        target = TARGETS.get(block.head.family)
        if target is None or block.is_map:
            continue
        directory = Path(sys.argv[1], target)
        directory.mkdir(parents=True, exist_ok=True)
        shape = b"".join((n - 1).to_bytes(2, "little") for n in (block.rows, block.cols))
        log2 = block.head.unit_bytes.bit_length() - 1
        for data in (block.data, *islice(mutations(block, 997), 50)):
            seed = data[4:7] + bytes([log2]) + shape + data[HEADER_BYTES:][: len(block.payload)]
            (directory / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)


if __name__ == "__main__":
    main()
