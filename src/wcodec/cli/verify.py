# SPDX-License-Identifier: Apache-2.0
"""`wcodec verify`."""

from __future__ import annotations

import click

from wcodec.cli import common


@click.command(name="verify")
@common.inputs_argument
@common.threads_option
@common.progress_option
@common.quiet_option
@common.json_option
def command(
    inputs: tuple[str, ...],
    threads: int | None,
    progress_kind: str,
    quiet: bool,
    as_json: bool,
) -> int:
    """Decode wcodec files or directories without writing and check every checksum.

    Exit code 0 if all of them are sound, 1 if any is not.
    """
    from wcodec.errors import WcodecError
    from wcodec.inspection import verify

    results = []
    for input in inputs:
        with common.shown_progress("verifying", progress_kind, quiet or as_json) as progress:
            try:
                result = {"path": input, "ok": True}
                result.update(verify(input, threads=threads, progress=progress))
            except (WcodecError, OSError, ValueError) as error:
                result = {"path": input, "ok": False, "error": " ".join(str(error).split())}
        results.append(result)
        if as_json:
            continue
        if not result["ok"]:
            click.echo(f"wcodec: {input}: {result['error']}", err=True)
        elif not quiet:
            layers = f"{result['n_layers']} layers, {result['n_blocks']} blocks"
            click.echo(f"{common.printable(input)}: ok, {layers}")
    if as_json:
        common.print_json({"results": results})
    return 0 if all(result["ok"] for result in results) else 1
