# SPDX-License-Identifier: Apache-2.0
"""`wcodec edit`."""

from __future__ import annotations

import os

import click

from wcodec.cli import common


@click.command(name="edit")
@common.input_argument
@click.option("-o", "--output", type=click.Path(), required=True, help="Where to write.")
@click.option(
    "--with",
    "tensors",
    type=click.Path(),
    help="A safetensors file: its tensors replace layers of the same name, the others are added.",
)
@click.option("--remove", multiple=True, metavar="NAME", help="Leave a layer out; repeatable.")
@common.force_option
@common.threads_option
@common.quiet_option
@common.json_option
def command(
    input: str,
    output: str,
    tensors: str | None,
    remove: tuple[str, ...],
    force: bool,
    threads: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write a wcodec file or directory with layers of INPUT replaced, added or removed.

    Layers that are not touched are copied as they are stored.
    """
    if os.path.exists(output) and not force:
        raise click.UsageError(f"{output}: exists already; -f replaces it")
    from wcodec.editing import edit_checkpoint

    try:
        statistics = edit_checkpoint(input, output, tensors or {}, remove=remove, threads=threads)
    except KeyError as error:
        raise click.ClickException(error.args[0]) from None
    if as_json:
        common.print_json({"input": input, "output": output, **statistics})
    elif not quiet:
        counts = ", ".join(
            f"{len(statistics[what])} {what}" for what in ("copied", "replaced", "added", "removed")
        )
        click.echo(f"{common.printable(output)}: {counts}")
