# SPDX-License-Identifier: Apache-2.0
"""`wcodec extract`."""

from __future__ import annotations

import os
import re

import click

from wcodec.cli import common


@click.command(name="extract")
@common.input_argument
@click.argument("name")
@common.output_option
@common.force_option
@common.threads_option
@common.quiet_option
@common.json_option
def command(
    input: str,
    name: str,
    output: str | None,
    force: bool,
    threads: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the layer NAME of a wcodec file or directory to a file of its own.

    An output that ends in .safetensors is one with this tensor (the default, NAME.safetensors);
    another is a wcodec file with the layer as it is stored.
    """
    if output is None:
        output = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII) + ".safetensors"
    if os.path.exists(output) and not force:
        raise click.UsageError(f"{output}: exists already; -f replaces it")
    from wcodec.editing import extract

    try:
        statistics = extract(input, name, output, threads=threads)
    except KeyError as error:
        raise click.ClickException(error.args[0]) from None
    if as_json:
        common.print_json({"input": input, "name": name, "output": output, **statistics})
    elif not quiet:
        click.echo(f"{common.printable(output)}: {common.size_text(statistics['output_bytes'])}")
