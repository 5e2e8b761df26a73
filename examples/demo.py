# SPDX-License-Identifier: Apache-2.0
"""The main job on a real checkpoint: encode a small trained language model, decode it, compare.

Run by `make demo`. The model (examples/demo_model) was trained by tools/train_demo_model.py.
Another safetensors file can be named as the argument.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import zstandard

import wcodec
from wcodec.cli.main import run

DEMO_MODEL = Path(__file__).parent / "demo_model"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO_MODEL / "model.safetensors"
    if source.parent == DEMO_MODEL:
        config = json.loads((DEMO_MODEL / "config.json").read_text())
        loss = config["held_out_bits_per_byte"]
        print(
            f"demo model: {config['parameters']:,} weights; "
            f"held-out loss {loss['model']:.3f} bits a byte "
            f"(a bigram model of the same text: {loss['bigram']:.3f})"
        )
    with tempfile.TemporaryDirectory() as directory:
        encoded = Path(directory) / "model.wcodec"
        restored = Path(directory) / "model.safetensors"
        statistics = wcodec.encode_checkpoint(source, encoded)
        run(["info", str(encoded)])
        wcodec.decode_checkpoint(encoded, restored)
        before, after = sha256(source), sha256(restored)

        data = source.read_bytes()
        print(f"\nwcodec   ratio {statistics['compression_ratio']:.4f}")
        for level in (3, 19):
            size = len(zstandard.ZstdCompressor(level=level).compress(data))
            print(f"zstd -{level:<2} ratio {len(data) / size:.4f}")
        print(f"sha256 of the source    {before}\nsha256 after decoding   {after}")
        print("identical" if before == after else "DIFFERENT")
    return 0 if before == after else 1


if __name__ == "__main__":
    sys.exit(main())
