# SPDX-License-Identifier: Apache-2.0
"""Layers for people, as `wcodec info` prints them: a tree by the parts of their names, or a list;
and the totals of each dtype. Plain text: 100,000 layers take less than a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from wcodec.cli.common import printable

Layer = dict[str, Any]
Row = tuple[str, ...]

SEPARATOR = "."
MAX_DEPTH = 32  # a hostile name may consist of separators
TEXT_HEADINGS = ("layer", "dtype", "shape", "coding")  # flush left, numbers flush right
CODING_HEADINGS = ("blocks", "runner-up, estimated")
NUMBER_HEADINGS = ("bytes", "bits a weight", "ratio")
TOTAL_HEADINGS = ("dtype", "layers", "bytes", "bits a weight", "ratio")

# The key of each order; the largest comes first, except for names.
ORDERS: dict[str, Callable[[Layer], Any]] = {
    "name": lambda layer: layer["name"],
    "bytes": lambda layer: -layer["bytes"],
    "ratio": lambda layer: -layer["data_bytes"] / layer["bytes"],
    "bits": lambda layer: -(layer["bits_per_weight"] or 0),
}


class _Node:
    __slots__ = ("bytes", "children", "data_bytes", "layer", "n_layers")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.layer: Layer | None = None
        self.n_layers = self.data_bytes = self.bytes = 0


def select(layers: list[Layer], patterns: tuple[str, ...], order: str | None) -> list[Layer]:
    """The layers whose name matches a shell pattern, all if there is none; in an order of ORDERS,
    or as they are.
    """
    if patterns:
        layers = [layer for layer in layers if any(fnmatchcase(layer["name"], p) for p in patterns)]
    return layers if order is None else sorted(layers, key=ORDERS[order])


def list_lines(layers: Iterable[Layer], codings: bool) -> Iterator[str]:
    """A table with a line a layer; `codings`: with what info() says of these."""
    rows = [_row(printable(layer["name"]), layer, codings) for layer in layers]
    return _layer_table(rows, codings)


def tree_lines(layers: Iterable[Layer], codings: bool) -> Iterator[str]:
    """The same, with a line more, with sums, for each prefix that several layers share."""
    root = _Node()
    for layer in layers:
        node = root
        for part in layer["name"].split(SEPARATOR, MAX_DEPTH):
            children = node.children
            node = children.get(part) or children.setdefault(part, _Node())
            node.n_layers += 1
            node.data_bytes += layer["data_bytes"]
            node.bytes += layer["bytes"]
        node.layer = layer
    rows = [row for name in root.children for row in _rows(root, name, 0, codings)]
    return _layer_table(rows, codings)


def _rows(parent: _Node, name: str, depth: int, codings: bool) -> Iterator[Row]:
    node = parent.children[name]
    while node.layer is None and len(node.children) == 1:
        (part,) = node.children
        name, node = name + SEPARATOR + part, node.children[part]
    label = "  " * depth + printable(name)
    if node.layer is not None:
        yield _row(label, node.layer, codings)
    if node.children:
        if node.layer is None:
            ratio = f"{node.data_bytes / node.bytes:.3f}"
            more = ("", "") if codings else ()
            yield (label, "", "", f"{node.n_layers} layers", *more, str(node.bytes), "", ratio)
        for child in node.children:
            yield from _rows(node, child, depth + 1, codings)


def _row(label: str, layer: Layer, codings: bool) -> Row:
    return (
        label,
        printable(layer["dtype"]),
        "x".join(map(str, layer["shape"])) or "scalar",
        layer["family"],
        *((_blocks(layer), _runner_up(layer)) if codings else ()),
        str(layer["bytes"]),
        _bits(layer["bits_per_weight"]),
        f"{layer['data_bytes'] / layer['bytes']:.3f}",
    )


def _blocks(layer: Layer) -> str:
    """How many blocks have which coding and form: "12 fp32_e8m1, 1 raw"."""
    return ", ".join(
        f"{block['n_blocks']} {block['form'] or block['coding']}" for block in layer["blocks"]
    )


def _runner_up(layer: Layer) -> str:
    """The best coding but for the layer's, and its size beside what is estimated of that."""
    sizes = {estimate["coding"]: estimate["bytes"] for estimate in layer["estimates"]}
    own = sizes.pop(layer["family"], 0)
    if not sizes:
        return ""
    coding = min(sizes, key=sizes.__getitem__)
    difference = f" ({100 * (sizes[coding] / own - 1):+.1f} %)" if own else ""
    return f"{coding} {sizes[coding]}{difference}"


def _layer_table(rows: list[Row], codings: bool) -> Iterator[str]:
    text = (*TEXT_HEADINGS, *CODING_HEADINGS) if codings else TEXT_HEADINGS
    return _table((*text, *NUMBER_HEADINGS), rows, len(text))


def total_lines(totals: list[dict[str, Any]]) -> Iterator[str]:
    """A table of the totals of info(), a line a dtype."""
    rows = [
        (
            printable(total["dtype"]),
            str(total["n_layers"]),
            str(total["bytes"]),
            _bits(total["bits_per_weight"]),
            f"{total['data_bytes'] / total['bytes']:.3f}",
        )
        for total in totals
    ]
    return _table(TOTAL_HEADINGS, rows, 1)


def _bits(bits_per_weight: float | None) -> str:
    return "" if bits_per_weight is None else f"{bits_per_weight:.3f}"


def _table(headings: Row, rows: Sequence[Row], n_text_columns: int) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    sides = "<" * n_text_columns + ">" * (len(headings) - n_text_columns)
    line = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    for row in (headings, *rows):
        yield line.format(*row).rstrip()
