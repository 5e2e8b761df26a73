# SPDX-License-Identifier: Apache-2.0
"""Every benchmark case whose data is here encodes to the size pinned in benchmarks/sizes.csv."""

import cases
import pytest
import sizes

HEAD, ROWS = sizes.read()
HERE = {case.name: case for case in cases.all_cases()[0]}
LARGE = pytest.mark.slow


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=LARGE) if n.startswith("minilm") else n for n in ROWS]
)
def test_size(name):
    if name not in HERE:
        pytest.skip("its data is not here (benchmarks/cases.py)")
    if ROWS[name]["zstd"] == "yes" and not HEAD.endswith(f"zstandard {sizes.zstd_version()}"):
        pytest.skip(f"zstd has a part in it, and this is zstandard {sizes.zstd_version()}")
    assert sizes.measure(HERE[name]) == ROWS[name]


def test_every_case_is_pinned():
    assert sorted(set(HERE) - set(ROWS)) == []
    assert {"demo", *(f"synthetic {name}" for name in cases.SYNTHETIC)} <= set(ROWS)
