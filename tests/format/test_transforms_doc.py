# SPDX-License-Identifier: Apache-2.0
"""The tables and worked examples of docs/transforms.md are what the core computes."""

import re
from pathlib import Path

import numpy as np
from support.tools import reference_decoder

from wcodec import _core

DOCUMENT = (Path(__file__).parents[2] / "docs" / "transforms.md").read_text()


def table_after(heading: str) -> list[list[str]]:
    """The cells of the first table after a line, without its two head lines."""
    rows = re.search(r"((?:^\|.*\n)+)", DOCUMENT[DOCUMENT.index(heading) :], re.MULTILINE)[1]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows.splitlines()[2:]]


def matrices() -> dict[str, np.ndarray]:
    n, k = np.arange(8), np.arange(8)[:, None]
    dct = np.sqrt(2 / 8) * np.cos(np.pi * (2 * n + 1) * k / 16)
    dct[0] *= np.sqrt(1 / 2)
    common = np.array([[(a & b).bit_count() for a in range(8)] for b in range(8)])
    return {
        "DCT-II": dct,
        "ADST": np.sqrt(4 / 17) * np.sin(np.pi * (2 * k + 1) * (n + 1) / 17),
        "Hadamard": np.sqrt(1 / 8) * (-1.0) ** common,
    }


def test_steps_are_the_orthonormal_transforms_up_to_sign_and_order():
    orders = {row[0]: [int(k) for k in row[1:]] for row in table_after("Place i of the three")}
    for transform, (name, matrix) in enumerate(matrices().items(), 1):
        assert np.allclose(matrix @ matrix.T, np.eye(8))
        found = np.eye(8)
        for place, factors in reference_decoder().LIFTING[transform]:
            assert factors[place] == 0
            found[place] += np.array(factors) / 4096 @ found
        assert sorted(orders[name]) == list(range(8))
        for place, k in enumerate(orders[name]):
            sign = np.sign(found[place] @ matrix[k])
            assert np.abs(found[place] - sign * matrix[k]).max() < 0.0004


def test_lifting_example():
    rows = [[int(cell or 0) for cell in row] for row in table_after("The DCT-II of eight numbers")]
    x = np.array(rows[0][3:], np.int64)
    steps = reference_decoder().LIFTING[1]
    assert len(rows) == len(steps) + 1
    for (place, factors), row in zip(steps, rows[1:], strict=True):
        added = int(x @ np.array(factors) + 2048) // 4096
        x[place] += added
        assert row[1:] == [place, added, *x.tolist()]
    # One row of numbers that are zero in the other direction: what both directions do to it.
    square = np.zeros((8, 8), np.int32)
    square[0] = rows[0][3:]
    _core.spatial_transform(square, 1, False)
    _core.spatial_transform(square, 1, True)
    assert square[0].tolist() == rows[0][3:]


def test_tile_example():
    rows = table_after("A 4 x 4 tile at the corner")
    units, residuals, numbers, tokens = (
        np.array([[int(n) for n in row[i].split()] for row in rows]) for i in range(4)
    )
    left, top, corner = (np.zeros((4, 4), int) for _ in range(3))
    left[:, 1:], top[1:], corner[1:, 1:] = units[:, :-1], units[:-1], units[:-1, :-1]
    assert (units - (left + top - corner) == residuals).all()
    assert (np.where(residuals >= 0, 2 * residuals, -2 * residuals - 1) == numbers).all()
    reference = reference_decoder()
    for row, cells in enumerate(rows):
        raw = []
        for number, token in zip(numbers[row].tolist(), tokens[row].tolist(), strict=True):
            base, n_bits = reference.token_numbers(token)
            assert base <= number < base + (1 << n_bits)
            raw += [f"{number - base:0{n_bits}b}"] if n_bits else []
        assert cells[4].split() == raw
