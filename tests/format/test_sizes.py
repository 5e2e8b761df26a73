# SPDX-License-Identifier: Apache-2.0
"""Every benchmark case whose data is here encodes to the size pinned in benchmarks/sizes.csv."""

from itertools import product

import cases
import pytest
import sizes

import wcodec

HEAD, ROWS = sizes.read()
HERE = {case.name: case for case in cases.all_cases()[0]}
LARGE = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "level"),
    [pytest.param(*key, marks=LARGE if key[0].startswith("minilm") else ()) for key in ROWS],
)
def test_size(name, level):
    if name not in HERE:
        pytest.skip("its data is not here (benchmarks/cases.py)")
    row = ROWS[name, level]
    if row["zstd"] == "yes" and not HEAD.endswith(f"zstandard {sizes.zstd_version()}"):
        pytest.skip(f"zstd has a part in it, and this is zstandard {sizes.zstd_version()}")
    assert sizes.measure(HERE[name], level) == row


def test_every_case_is_pinned():
    assert set(product(HERE, wcodec.LEVELS)) <= set(ROWS)
    own = ["demo", *(f"synthetic {name}" for name in cases.SYNTHETIC)]
    assert set(product(own, wcodec.LEVELS)) <= set(ROWS)
