# SPDX-License-Identifier: Apache-2.0
"""What subcommands share: options, progress on a terminal, refusing to overwrite, JSON, numbers for
people.
"""

from __future__ import annotations

import glob
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import click

from wcodec.progress import printable as printable


class _Size(click.ParamType[int]):
    """A size in bytes, or with a unit of 1024: 512M, 2GiB."""

    name = "size"
    _UNITS: ClassVar[dict[str, int]] = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+)([KMG]?)(?:iB|B)?", str(value), re.IGNORECASE)
        if match is None:
            self.fail(f"{value!r} is no size, expected one like 512M or 2GiB", param, ctx)
        return int(match[1]) * self._UNITS[match[2].upper()]


threads_option = click.option(
    "-T", "--threads", type=click.IntRange(1, 256), help="Threads to use [default: all processors]."
)
max_memory_option = click.option(
    "--max-memory",
    type=_Size(),
    metavar="SIZE",
    help="Hold at most this much at once, as in 256M [default: 512M].",
)
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Print a line a layer.")
force_option = click.option("-f", "--force", is_flag=True, help="Replace an existing output.")
remove_option = click.option(
    "--rm", "remove", is_flag=True, help="Remove the input once the output was read again."
)
output_option = click.option("-o", "--output", type=click.Path(), help="Where to write.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
resume_option = click.option(
    "--resume", is_flag=True, help="Keep outputs that are right already, and go on."
)
progress_option = click.option(
    "--progress",
    "progress_kind",
    type=click.Choice(["bar", "json", "none"]),
    default="bar",
    help="On standard error: a bar, if that is a terminal (the default), or JSON lines.",
)
input_argument = click.argument("input", type=click.Path())
inputs_argument = click.argument(
    "inputs", metavar="INPUT...", type=click.Path(), nargs=-1, required=True
)

PIPE = "-"
SCHEMA_VERSION = 1  # of what --json prints; docs/guide/cli.md says what stays the same


class Job(NamedTuple):
    """One input and its output: paths, or PIPE."""

    input: str
    output: str


def plan_jobs(
    inputs: tuple[str, ...], output: str | None, from_suffix: str, to_suffix: str, replace: bool
) -> list[Job]:
    """What the arguments ask for, checked before any work: patterns expanded, outputs named.

    Raises UsageError, and OSError for inputs that are not there.
    """
    inputs = tuple(path for item in inputs for path in _expand(item))
    if len(inputs) == 1:
        jobs = [Job(inputs[0], output or _default_output(inputs[0], from_suffix, to_suffix))]
    else:
        jobs = _jobs_into(inputs, output, from_suffix, to_suffix)
    sources: dict[str, str] = {}
    for job in jobs:
        if job.output in sources:
            raise click.UsageError(
                f"{sources[job.output]} and {job.input} would both become {job.output}"
            )
        sources[job.output] = job.input
        _check_job(job, replace)
    return jobs


def _expand(item: str) -> list[str]:
    if item == PIPE or os.path.lexists(item) or not glob.has_magic(item):
        return [item]
    found = sorted(glob.glob(item))
    if not found:
        raise FileNotFoundError(2, "no file matches", item)
    return found


def _jobs_into(
    inputs: tuple[str, ...], directory: str | None, from_suffix: str, to_suffix: str
) -> list[Job]:
    """The jobs of several inputs: each beside its input, or all into one directory."""
    if PIPE in inputs or directory == PIPE:
        raise click.UsageError(f"{PIPE}: standard input and output hold one file, not several")
    outputs = [_default_output(input, from_suffix, to_suffix) for input in inputs]
    if directory is not None:
        if not os.path.isdir(directory):
            raise click.UsageError(f"{directory}: is no directory, expected one for several inputs")
        outputs = [os.path.join(directory, os.path.basename(output)) for output in outputs]
    return [Job(*pair) for pair in zip(inputs, outputs, strict=True)]


def _default_output(input: str, from_suffix: str, to_suffix: str) -> str:
    """The input's path with another suffix; a wcodec directory is named DIR.wcodec."""
    if input == PIPE:
        return PIPE
    path, suffix, other = input, from_suffix, to_suffix
    if os.path.isdir(input):
        path = os.path.normpath(input)
        suffix, other = ("", to_suffix) if to_suffix == ".wcodec" else (from_suffix, "")
        if os.path.basename(path) in ("", ".", ".."):
            raise click.UsageError(f"{input}: name the output with -o")
    if not os.path.lexists(path):
        raise FileNotFoundError(2, "no such file", path)
    if not path.endswith(suffix):
        raise click.UsageError(f"{input}: does not end in {suffix}; name the output with -o")
    return path.removesuffix(suffix) + other


def _check_job(job: Job, replace: bool) -> None:
    """Raise if the input is missing, or the output would overwrite something that was not meant."""
    input, output = job
    if input == PIPE:
        if sys.stdin.isatty():
            raise click.UsageError(f"{PIPE}: standard input is a terminal, expected a file")
    elif not os.path.exists(input):
        raise FileNotFoundError(2, "no such file", input)
    if output == PIPE:
        if os.path.isdir(input):
            raise click.UsageError(f"{input}: is a directory, which standard output cannot hold")
        if sys.stdout.isatty():
            raise click.UsageError(f"{PIPE}: standard output is a terminal; weights are binary")
    elif os.path.exists(output):
        if input != PIPE and os.path.samefile(input, output):
            raise click.UsageError(f"{output}: is the input itself")
        taken = os.path.isfile(output) or (os.path.isdir(output) and os.listdir(output))
        if not replace and taken:
            raise click.UsageError(f"{output}: exists already; -f replaces it, --resume goes on")
    elif not Path(output).absolute().parent.is_dir():
        raise FileNotFoundError(2, "no such directory", str(Path(output).absolute().parent))


def run_jobs(
    jobs: list[Job], work: Callable[[Any, Any], dict[str, Any]]
) -> list[tuple[Job, dict[str, Any]]]:
    """Call `work` with the input and output of each job, PIPE replaced by the stream; returns what
    it returns.

    Of several jobs, those that fail do not keep the others from being done: PartialError then.
    """
    from wcodec.errors import PartialError, WcodecError

    done, failures = [], {}
    for job in jobs:
        input = sys.stdin.buffer if job.input == PIPE else job.input
        output = sys.stdout.buffer if job.output == PIPE else job.output
        try:
            done.append((job, work(input, output)))
        except (WcodecError, OSError) as error:
            if len(jobs) == 1:
                raise
            failures[job.input] = error
        if job.output == PIPE:
            sys.stdout.buffer.flush()
    if failures:
        raise PartialError(failures, len(done))
    return done


def report(
    done: list[tuple[Job, dict[str, Any]]],
    as_json: bool,
    quiet: bool,
    line: Callable[[dict[str, Any]], str],
) -> None:
    """Print the statistics of jobs: as JSON, or a line for each and one for each file left out.
    Nothing where standard output holds the data.
    """
    if any(job.output == PIPE for job, _ in done):
        return
    if as_json:
        print_json({"results": [{**job._asdict(), **statistics} for job, statistics in done]})
    elif not quiet:
        for job, statistics in done:
            click.echo(f"{printable(job.output)}: {line(statistics)}")
            for path in statistics.get("left_out", ()):
                click.echo(f"left out: {printable(path)} (--all-files copies it)")


def shards_text(statistics: dict[str, Any]) -> str:
    """How many shards a directory has and how many were kept, or nothing for a file."""
    if "files" not in statistics:
        return ""
    n_files = len(statistics["files"])
    n_kept = sum(file["kept"] for file in statistics["files"])
    kept = f" ({n_kept} kept)" if n_kept else ""
    return f"{count(n_files, 'shard')}{kept}, "


def count(n: int, thing: str) -> str:
    """A number of things: "1 shard", "2 shards"."""
    return f"{n} {thing}{'' if n == 1 else 's'}"


@contextmanager
def shown_progress(
    label: str, kind: str, quiet: bool
) -> Iterator[Callable[[int, int], None] | None]:
    """A progress callback that draws a bar with bytes and GB/s on stderr, or None where nobody
    looks; of kind "json" one that prints lines of JSON whether anybody looks or not.
    """
    if kind == "json":
        yield _JsonLines(label)
        return
    if kind == "none" or quiet or not sys.stderr.isatty():
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


class _JsonLines:
    """A progress callback that prints a line of JSON to stderr, ten a second at most."""

    SECONDS = 0.1

    def __init__(self, label: str) -> None:
        self._label = label
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next or done == total:
            self._next = time.monotonic() + self.SECONDS
            line = {"task": self._label, "done_bytes": done, "total_bytes": total or None}
            click.echo(json.dumps(line), err=True)


def hub() -> ModuleType:
    """The module of push and pull. Raises ClickException where huggingface_hub is missing."""
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise click.ClickException(
            "huggingface_hub is not installed: pip install wcodec[hub]"
        ) from None
    from wcodec import hub

    return hub


def print_json(fields: dict[str, Any]) -> None:
    """Print the one document of `--json`."""
    value = {"schema_version": SCHEMA_VERSION, **fields}
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:  # a path that is no UTF-8
            text = json.dumps(value, indent=2)
    click.echo(text)


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
