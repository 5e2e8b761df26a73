# SPDX-License-Identifier: Apache-2.0
"""`wcodec recover`."""

from __future__ import annotations

import os

import click

from wcodec.cli import common


@click.command(name="recover")
@common.input_argument
@click.option("-o", "--output", type=click.Path(), required=True, help="Where to write.")
@common.force_option
@common.threads_option
@common.quiet_option
@common.json_option
def command(
    input: str, output: str, force: bool, threads: int | None, quiet: bool, as_json: bool
) -> int:
    """Write a wcodec file with the layers of a damaged one that are whole, and list what is lost.

    Exit code 0 if nothing is lost, 3 if something is.
    """
    if os.path.exists(output) and not force:
        raise click.UsageError(f"{output}: exists already; -f replaces it")
    from wcodec.cli.main import EXIT_PARTIAL
    from wcodec.recovery import recover

    found = recover(input, output, threads=threads)
    if as_json:
        common.print_json({"input": input, "output": output, **found})
    elif not quiet:
        for damage in found["lost"]:
            click.echo(f"lost: {common.printable(damage['error'])}")
        layers = common.count(len(found["recovered"]), "layer")
        size = common.size_text(found["output_bytes"])
        click.echo(f"{common.printable(output)}: {layers}, {size}")
    return EXIT_PARTIAL if found["lost"] else 0
