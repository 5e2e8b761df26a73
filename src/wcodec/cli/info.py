# SPDX-License-Identifier: Apache-2.0
"""`wcodec info`."""

from __future__ import annotations

from typing import Any

import click

from wcodec.cli import common, layer_table


@click.command(name="info")
@common.input_argument
@click.option(
    "--sort",
    "order",
    type=click.Choice(list(layer_table.ORDERS)),
    help="List the layers in this order instead of as a tree; the largest first.",
)
@click.option(
    "--filter",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only layers whose name matches, as in '*.mlp.*'; repeatable.",
)
@click.option(
    "--codings",
    is_flag=True,
    help="Also say which codings the blocks of each layer have, and estimate what the best other "
    "coding would take; decodes the beginning of each layer.",
)
@common.json_option
def command(
    input: str, order: str | None, patterns: tuple[str, ...], codings: bool, as_json: bool
) -> None:
    """Show what is in a wcodec file or directory: its layers as a tree, their codings and sizes.

    Reads headers and indexes only, but for --codings. Totals are those of the whole file.
    """
    from wcodec.inspection import info

    found = info(input, codings=codings)
    for file in found.get("files", [found]):
        file["layers"] = layer_table.select(file["layers"], patterns, order)
    if as_json:
        common.print_json(found)
    else:
        click.echo("\n".join(_lines(found, order is not None, codings)))


def _lines(found: dict[str, Any], flat: bool, codings: bool) -> list[str]:
    lines = []
    for file in found.get("files", [found]):
        name = f" ({common.printable(file['model_name'])})" if file["model_name"] else ""
        path = common.printable(file["path"])
        lines.append(f"{path}{name}: format {file['format_version']}, {_totals(file)}")
        if file["layers"]:
            lines.append("")
            table = layer_table.list_lines if flat else layer_table.tree_lines
            lines.extend(table(file["layers"], codings))
            lines.append("")
    if "files" in found:
        path = common.printable(found["path"])
        lines += [f"{path}: {common.count(len(found['files']), 'shard')}, {_totals(found)}", ""]
    return [*lines, *layer_table.total_lines(found["dtypes"])]


def _totals(found: dict[str, Any]) -> str:
    return (
        f"{found['n_layers']} layers, {common.size_text(found['data_bytes'])} in "
        f"{common.size_text(found['file_bytes'])}, ratio {found['compression_ratio']:.3f}"
    )
