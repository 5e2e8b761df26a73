# SPDX-License-Identifier: Apache-2.0
"""`wcodec pull`."""

from __future__ import annotations

import click

from wcodec.cli import common


@click.command(name="pull")
@click.argument("repo")
@common.output_option
@click.option("--revision", help="Branch, tag or commit [default: main].")
@click.option("--token", help="Of the hub [default: that of `hf auth login`].")
@common.quiet_option
@common.json_option
def command(
    repo: str,
    output: str | None,
    revision: str | None,
    token: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Download the wcodec directory of the repository REPO, as in name/model.

    It goes to huggingface_hub's cache, or to the directory that -o names; weights in other formats
    are not downloaded. Prints where it is.
    """
    hub = common.hub()
    path = hub.pull(repo, output, revision=revision, token=token)
    if as_json:
        common.print_json({"repo": repo, "output": path})
    elif not quiet:
        click.echo(common.printable(path))
