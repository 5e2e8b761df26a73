# SPDX-License-Identifier: Apache-2.0
"""`wcodec info`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wcodec.cli import common

if TYPE_CHECKING:
    from rich.console import Console


@click.command(name="info")
@common.input_argument
@common.json_option
def command(input: str, as_json: bool) -> None:
    """Show what is in a wcodec file or directory: its layers, codings and sizes. Reads headers and
    indexes only.
    """
    from wcodec.inspection import info

    found = info(input)
    if as_json:
        common.print_json(found)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a file or a pipe has no width to fit
        console = Console(highlight=False, markup=False, width=10_000)
    for file in found.get("files", [found]):
        _print_file(console, file)
    if "files" in found:
        console.print(
            f"{common.printable(found['path'])}: {len(found['files'])} shards, {_totals(found)}",
            soft_wrap=True,
        )


def _totals(found: dict[str, Any]) -> str:
    return (
        f"{found['n_layers']} layers, {common.size_text(found['data_bytes'])} in "
        f"{common.size_text(found['file_bytes'])}, ratio {found['compression_ratio']:.3f}"
    )


def _print_file(console: Console, found: dict[str, Any]) -> None:
    from rich.table import Table

    name = f" ({common.printable(found['model_name'])})" if found["model_name"] else ""
    path = common.printable(found["path"])
    console.print(
        f"{path}{name}: format {found['format_version']}, {_totals(found)}", soft_wrap=True
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("layer", "dtype", "shape", "coding"):
        table.add_column(heading, overflow="fold")
    for heading in ("bytes", "bits a weight", "ratio"):
        table.add_column(heading, justify="right")
    for layer in found["layers"]:
        table.add_row(
            common.printable(layer["name"]),
            common.printable(layer["dtype"]),
            "x".join(map(str, layer["shape"])) or "scalar",
            layer["family"],
            str(layer["bytes"]),
            "" if layer["bits_per_weight"] is None else f"{layer['bits_per_weight']:.3f}",
            f"{layer['data_bytes'] / layer['bytes']:.3f}",
        )
    console.print(table)
