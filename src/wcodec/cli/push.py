# SPDX-License-Identifier: Apache-2.0
"""`wcodec push`."""

from __future__ import annotations

import click

from wcodec.cli import common


@click.command(name="push")
@common.input_argument
@click.argument("repo")
@click.option("--revision", help="Branch to commit to [default: main].")
@click.option("--token", help="Of the hub [default: that of `hf auth login`].")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("-m", "--message", default="Add wcodec files", help="Of the commit.")
@common.quiet_option
@common.json_option
def command(
    input: str,
    repo: str,
    revision: str | None,
    token: str | None,
    private: bool,
    message: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Upload the wcodec directory INPUT to the repository REPO, as in name/model, in one commit.

    README.md gets a table of what is in the files; a repository that is not there is made.
    """
    hub = common.hub()
    url = hub.push(
        input, repo, revision=revision, token=token, private=private or None, message=message
    )
    if as_json:
        common.print_json({"input": input, "repo": repo, "commit": url})
    elif not quiet:
        click.echo(url)
