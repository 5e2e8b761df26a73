# SPDX-License-Identifier: Apache-2.0
"""`wcodec info`."""

from __future__ import annotations

from typing import Any

import click

from wcodec.cli import common


@click.command(name="info")
@common.input_argument
@common.json_option
def command(input: str, as_json: bool) -> None:
    """Show what is in a wcodec file: its layers, codings and sizes. Reads the header and the index
    only.
    """
    from wcodec.inspection import info

    found = info(input)
    if as_json:
        common.print_json(found)
    else:
        _print_table(found)


def _print_table(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a file or a pipe has no width to fit
        console = Console(highlight=False, markup=False, width=10_000)
    name = f" ({found['model_name']})" if found["model_name"] else ""
    console.print(
        f"{found['path']}{name}: format {found['format_version']}, {found['n_layers']} layers, "
        f"{common.size_text(found['data_bytes'])} in {common.size_text(found['file_bytes'])}, "
        f"ratio {found['compression_ratio']:.3f}",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("layer", "dtype", "shape", "coding"):
        table.add_column(heading, overflow="fold")
    for heading in ("bytes", "bits a weight", "ratio"):
        table.add_column(heading, justify="right")
    for layer in found["layers"]:
        table.add_row(
            printable(layer["name"]),
            printable(layer["dtype"]),
            "x".join(map(str, layer["shape"])) or "scalar",
            layer["family"],
            str(layer["bytes"]),
            "" if layer["bits_per_weight"] is None else f"{layer['bits_per_weight']:.3f}",
            f"{layer['data_bytes'] / layer['bytes']:.3f}",
        )
    console.print(table)


def printable(text: str) -> str:
    """Text from a file as it may be shown on a terminal: control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
