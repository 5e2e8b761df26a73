# SPDX-License-Identifier: Apache-2.0
"""One tensor beyond 4 GiB and 2^31 elements, through the command line's own path, with peak memory.

Writes a safetensors file with one BF16 tensor of 2^31 + 129 elements (seeded Gaussian values,
generated as a stream), encodes, decodes, compares SHA-256 and prints each step's peak memory over
that of the imports. Needs some 12 GB of disk.

    python benchmarks/large_tensor.py [--elements N] [--rows R] [--directory DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PIECE = 1 << 24

# VmHWM is the peak of this process image alone; ru_maxrss would inherit that of its parent.
CHILD = """
import re
import wcodec.encode, wcodec.decode
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
base = peak()
{call}
print((peak() - base) / 1024)
"""


def write_gaussian(path: Path, shape: list[int], seed: int = 1) -> str:
    """Write the file and return its SHA-256."""
    n = int(np.prod(shape, dtype=object))
    header = json.dumps({"weight": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 2 * n]}})
    header += " " * (-len(header) % 8)
    digest = hashlib.sha256()
    random = np.random.default_rng(seed)
    with open(path, "wb") as file:

        def put(data: bytes) -> None:
            file.write(data)
            digest.update(data)

        put(len(header).to_bytes(8, "little") + header.encode())
        for start in range(0, n, PIECE):
            values = random.standard_normal(min(PIECE, n - start), dtype=np.float32)
            values *= np.float32(0.02)
            # Rounded towards zero: the upper half of each float32.
            put(values.view(np.uint16)[1::2].tobytes())
    return digest.hexdigest()


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 24):
            digest.update(piece)
    return digest.hexdigest()


def run_measured(call: str) -> tuple[float, float]:
    """Run a call in a fresh process; returns its peak memory over the imports in MiB, and its
    seconds.
    """
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(call=call)], check=True, capture_output=True, text=True
    )
    return float(done.stdout), time.perf_counter() - started


def measure(directory: Path, shape: list[int]) -> tuple[float, float]:
    """Encode and decode such a tensor in fresh processes; returns both peaks over the imports, in
    MiB.

    Raises RuntimeError if the file that comes back is another.
    """
    source, encoded, restored = (directory / name for name in ("a", "b", "c"))
    before = write_gaussian(source, shape)
    size = source.stat().st_size
    print(f"source: {shape} BF16, {size} bytes")
    call = f"wcodec.encode.encode_checkpoint({str(source)!r}, {str(encoded)!r})"
    encode_peak, seconds = run_measured(call)
    ratio = size / encoded.stat().st_size
    print(f"encode: {seconds:.0f} s, ratio {ratio:.4f}, peak {encode_peak:.0f} MiB over imports")
    source.unlink()
    call = f"wcodec.decode.decode_checkpoint({str(encoded)!r}, {str(restored)!r})"
    decode_peak, seconds = run_measured(call)
    print(f"decode: {seconds:.0f} s, peak {decode_peak:.0f} MiB over imports")
    if sha256(restored) != before:
        raise RuntimeError("the restored file is another")
    print("sha256 identical")
    return encode_peak, decode_peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=(1 << 31) + 129)
    parser.add_argument("--rows", type=int, default=1, help="1: a vector; else a matrix of rows")
    parser.add_argument("--directory", type=Path)
    arguments = parser.parse_args()
    rows = arguments.rows
    shape = [arguments.elements] if rows == 1 else [rows, arguments.elements // rows]
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        measure(Path(directory), shape)


if __name__ == "__main__":
    main()
