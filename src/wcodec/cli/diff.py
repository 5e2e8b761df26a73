# SPDX-License-Identifier: Apache-2.0
"""`wcodec diff`."""

from __future__ import annotations

from typing import Any

import click

from wcodec.cli import common


@click.command(name="diff")
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@common.threads_option
@common.quiet_option
@common.json_option
def command(a: str, b: str, threads: int | None, quiet: bool, as_json: bool) -> int:
    """Show which layers of the wcodec files or directories A and B differ, and by how much.

    Exit code 0 if none does, 1 if any does.
    """
    from wcodec.comparing import diff

    found = diff(a, b, threads=threads)
    if as_json:
        common.print_json({"differences": found})
    elif not quiet:
        for layer in found:
            click.echo(f"{common.printable(layer['name'])}: {_words(layer)}")
    return 1 if found else 0


def _words(layer: dict[str, Any]) -> str:
    if layer["kind"] != "values":
        return str(layer["kind"])
    words = f"{layer['n_different']} of {common.count(layer['n_weights'], 'value')} differ"
    largest = layer["max_difference"]
    return words if largest is None else f"{words}, by up to {largest:.6g}"
