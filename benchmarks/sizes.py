# SPDX-License-Identifier: Apache-2.0
"""The exact encoded size of every benchmark case, pinned in sizes.csv: a change of size is a diff.

    python benchmarks/sizes.py            # print the sizes of the cases whose data is here
    python benchmarks/sizes.py --write    # and put them into sizes.csv
    python benchmarks/sizes.py --peers    # ratios of all cases beside peers, in .venv-bench

A case is a file, or a dict of arrays; both are encoded by encode_checkpoint at every level. Where
zstd had a part in the result, another version of it may give another size: the column zstd says so.
tests/format/test_sizes.py compares.

With --peers, wcodec's ratios are those of sizes.csv: of the source (of a file its header, too) to
the wcodec file, which holds names, shapes, checksums and index. A peer is given one tensor after
the other, and its ratio is that of their bytes alone. The results go to results/sizes_peers.csv.
"""

from __future__ import annotations

import argparse
import csv
import io
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import zstandard
from cases import Case, all_cases
from peers import Codec, ratio_codecs, versions

import wcodec
from wcodec import zstd_frame
from wcodec.dtypes import dtype_name

SIZES = Path(__file__).with_name("sizes.csv")
PEERS = Path(__file__).with_name("results") / "sizes_peers.csv"
FIELDS = ("case", "level", "tensors", "source_bytes", "wcodec_bytes", "ratio", "zstd")
OPTIONS: dict[str, Any] = {"duplicates": True}
Key = tuple[str, str]  # name of the case, level


def zstd_version() -> str:
    return f"{zstandard.__version__} with zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}"


def head() -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in OPTIONS.items())
    return f"# encode_checkpoint(..., level=level, {options}), zstandard {zstd_version()}"


def measure(case: Case, level: str) -> dict[str, str]:
    """Encode a case at a level and return its row."""
    source = case.arrays() if case.file is None else case.file
    with mock.patch.object(zstd_frame, "compress", wraps=zstd_frame.compress) as compress:
        statistics = wcodec.encode_checkpoint(source, io.BytesIO(), level=level, **OPTIONS)
    return {
        "case": case.name,
        "level": level,
        "tensors": str(len(statistics["layers"])),
        "source_bytes": str(statistics["input_bytes"]),
        "wcodec_bytes": str(statistics["output_bytes"]),
        "ratio": f"{statistics['compression_ratio']:.4f}",
        "zstd": "yes" if compress.called else "no",
    }


def read() -> tuple[str, dict[Key, dict[str, str]]]:
    """The head line of sizes.csv and its rows by case and level."""
    first, *lines = SIZES.read_text().splitlines()
    return first, {(row["case"], row["level"]): row for row in csv.DictReader(lines)}


def write(rows: dict[Key, dict[str, str]]) -> None:
    with open(SIZES, "w", newline="") as file:
        file.write(head() + "\n")
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())


def peer_ratio(codec: Codec, arrays: dict[str, Any]) -> str:
    """The ratio of a peer on a case; nothing where it has no coding for most of it."""
    sizes: dict[str, int] = {}
    for array in arrays.values():
        name = dtype_name(array.dtype)
        sizes[name] = sizes.get(name, 0) + array.nbytes
    if not codec.supports(max(sizes, key=sizes.__getitem__)):
        return ""
    encoded = codec.encode({name: array.copy() for name, array in arrays.items()})
    return f"{sum(sizes.values()) / sum(len(data) for data, _ in encoded):.4f}"


def compare(cases: list[Case]) -> None:
    """Print the ratios of all cases beside those of peers, and write them to PEERS."""
    codecs, missing = ratio_codecs()
    for line in missing:
        print(f"skipped: {line}")
    rows = read()[1]
    fields = ["case", *wcodec.LEVELS, *(codec.name for codec in codecs)]
    print("".join(f"{field:<36}" if field == "case" else f"{field:>12}" for field in fields))
    with open(PEERS, "w", newline="") as file:
        file.write(f"# {versions()}\n")
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        for case in cases:
            arrays = case.arrays()
            row = {level: rows[case.name, level]["ratio"] for level in wcodec.LEVELS}
            row |= {codec.name: peer_ratio(codec, arrays) for codec in codecs}
            print(f"{case.name:<36}" + "".join(f"{r:>12}" for r in row.values()), flush=True)
            writer.writerow({"case": case.name, **row})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace sizes.csv")
    parser.add_argument("--peers", action="store_true", help="compare ratios instead")
    arguments = parser.parse_args()
    cases, missing = all_cases()
    if (arguments.write or arguments.peers) and missing:
        parser.error("; ".join(missing))  # a partial file would drop rows
    if arguments.peers:
        compare(cases)
        return
    rows = {}
    for case, level in product(cases, wcodec.LEVELS):
        row = rows[case.name, level] = measure(case, level)
        print(" ".join(f"{row[field]:<28}" for field in FIELDS).rstrip())
    for line in missing:
        print(f"skipped: {line}")
    if arguments.write:
        write(rows)


if __name__ == "__main__":
    main()
