# SPDX-License-Identifier: Apache-2.0
"""The ratios of README.md's table as Markdown: wcodec's from sizes.csv, its peers' from the newest
file of benchmarks/results.

    python benchmarks/table.py

wcodec is given the tensors as they are; a peer counts with the best of its shapes
(benchmarks/run.py).
"""

from __future__ import annotations

import csv
from pathlib import Path

import sizes

CASES = {
    "minilm fp32": "all-MiniLM-L6-v2, fp32 as published (91 MB)",
    "minilm bf16": "the same cast to bf16",
    "minilm fp16": "the same cast to fp16",
    "minilm int8 per-channel": "its matrices as int8, a scale for each channel",
    "minilm fp8 e4m3": "its matrices as fp8 e4m3",
    "minilm int4 g128": "its matrices as int4, two a byte, groups of 128",
    "demo": "the demo model of this repository, bf16 (2.7 MB)",
    "weights rife_v3.0_f16": "RIFE 3.0, fp16 CNN (2.4 MB)",
    "weights chargpt_step450_exp_avg_sq": "squared gradients of an Adam optimiser, fp32 (20 MB)",
    "weights silero_vad_f32": "silero-vad, fp32, repeated rows (1.2 MB)",
    "weights nnue_int16": "a Stockfish NNUE, int16 (6.5 MB)",
}
PEERS = {
    "zipnn": "zipnn",
    "openzl fse": "OpenZL (FSE)",
    "zstd -3": "zstd -3",
    "zstd -19": "zstd -19",
}


def read(path: Path) -> list[dict[str, str]]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return [row for row in csv.DictReader(lines) if row["threads"] == "1"]


def best(rows: list[dict[str, str]], case: str, codec: str, shapes: tuple[str, ...]) -> str:
    found = [
        float(row["ratio"])
        for row in rows
        if row["case"] == case and row["codec"] == codec and row["shape"] in shapes
    ]
    return f"{max(found):.3f}" if found else "-"


def main() -> None:
    results = Path(__file__).with_name("results").glob("*_????-??-??.csv")
    path = max(results, key=lambda p: p.stem[-10:])
    rows = read(path)
    _, own = sizes.read()
    print(f"{path.name}\n")
    print("| tensors | wcodec | level max | " + " | ".join(PEERS.values()) + " |")
    print("|---|" + "---|" * (len(PEERS) + 2))
    for case, title in CASES.items():
        ratios = [f"{float(own[case, level]['ratio']):.3f}" for level in ("default", "max")]
        ratios += [best(rows, case, peer, ("joined", "tensors", "file")) for peer in PEERS]
        print(f"| {title} | " + " | ".join(ratios) + " |")


if __name__ == "__main__":
    main()
