# SPDX-License-Identifier: Apache-2.0
"""What subcommands share: options, progress on a terminal, refusing to overwrite, JSON, numbers for
people.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

threads_option = click.option(
    "-T", "--threads", type=click.IntRange(1, 256), help="Threads to use [default: all processors]."
)
force_option = click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
output_option = click.option("-o", "--output", type=click.Path(), help="Where to write.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
input_argument = click.argument("input", type=click.Path())


def choose_output(input: str, output: str | None, from_suffix: str, to_suffix: str) -> str:
    """The output path: as given, else the input's with another suffix."""
    if output is not None:
        return output
    if not input.endswith(from_suffix):
        raise click.UsageError(f"{input}: does not end in {from_suffix}; name the output with -o")
    return input.removesuffix(from_suffix) + to_suffix


def check_output(input: str, output: str, force: bool) -> None:
    """Raise before any work if the input is missing, or the output would overwrite something that
    was not meant.
    """
    if not os.path.exists(input):
        raise FileNotFoundError(2, "no such file", input)
    if os.path.isdir(input):
        raise IsADirectoryError(21, "is a directory, expected a file", input)
    if os.path.exists(output):
        if os.path.samefile(input, output):
            raise click.UsageError(f"{output}: is the input itself")
        if not force and os.path.isfile(output):
            raise click.UsageError(f"{output}: exists already; -f replaces it")
    elif not Path(output).absolute().parent.is_dir():
        raise FileNotFoundError(2, "no such directory", str(Path(output).absolute().parent))


@contextmanager
def shown_progress(label: str, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress callback that draws a bar with bytes and GB/s on stderr, or None where nobody
    looks.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def gigabytes_per_second(n_bytes: int, seconds: float) -> str:
    return f"{n_bytes / max(seconds, 1e-9) / 1e9:.2f} GB/s"


def size_text(n_bytes: int) -> str:
    """A size for people: 1234 -> "1.2 kB"; units of 1000."""
    size = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
