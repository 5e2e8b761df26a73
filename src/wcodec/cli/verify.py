# SPDX-License-Identifier: Apache-2.0
"""`wcodec verify`."""

from __future__ import annotations

import os
from typing import Any

import click

from wcodec.cli import common


@click.command(name="verify")
@common.inputs_argument
@click.option("--fast", is_flag=True, help="Check checksums only, without decoding.")
@common.threads_option
@common.progress_option
@common.quiet_option
@common.json_option
def command(
    inputs: tuple[str, ...],
    fast: bool,
    threads: int | None,
    progress_kind: str,
    quiet: bool,
    as_json: bool,
) -> int:
    """Decode wcodec files or directories without writing and check every checksum.

    Of a damaged file every damaged block is named. Exit code 0 if all are sound, 1 if any is not.
    """
    from wcodec.errors import WcodecError, unnamed
    from wcodec.inspection import verify

    results = []
    for input in inputs:
        with common.shown_progress("verifying", progress_kind, quiet or as_json) as progress:
            try:
                result: dict[str, Any] = {"path": input, "ok": True}
                result.update(verify(input, fast=fast, threads=threads, progress=progress))
            except (WcodecError, OSError, ValueError) as error:
                result = {"path": input, "ok": False, "error": unnamed(error, input)}
                result["damage"] = _damage(input, threads)
        results.append(result)
        if as_json:
            continue
        if not result["ok"]:
            for line in [d["error"] for d in result["damage"]] or [result["error"]]:
                text = f"{input}: {line.removeprefix(f'{input}: ')}"
                click.echo(f"wcodec: {common.printable(text)}", err=True)
        elif not quiet:
            layers = f"{result['n_layers']} layers, {result['n_blocks']} blocks"
            click.echo(f"{common.printable(input)}: ok, {layers}")
    if as_json:
        common.print_json({"results": results})
    return 0 if all(result["ok"] for result in results) else 1


def _damage(input: str, threads: int | None) -> list[dict[str, Any]]:
    """Everything that is damaged in a file, as far as one can look into it."""
    from wcodec.errors import WcodecError
    from wcodec.recovery import find_damage

    try:
        return [] if os.path.isdir(input) else find_damage(input, threads=threads)
    except (WcodecError, OSError, ValueError):
        return []
