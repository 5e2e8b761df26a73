# SPDX-License-Identifier: Apache-2.0
"""`--rm`: an input goes only when its output is on disk and has been read again."""

from __future__ import annotations

import os
from pathlib import Path

import click

from wcodec.cli import common


def check_removable(jobs: list[common.Job], lossy: bool) -> None:
    """Raise UsageError for inputs that --rm does not remove."""
    if lossy:
        raise click.UsageError("--rm: the output does not give the input back, so it stays")
    for job in jobs:
        for path in job:
            if path == common.PIPE or os.path.isdir(path):
                raise click.UsageError(f"{path}: --rm takes files, no pipes and no directories")
        if os.path.islink(job.input) or not os.path.isfile(job.input):
            raise click.UsageError(f"{job.input}: is no regular file, so --rm does not remove it")


def remove_input(job: common.Job, encoded: str, original: str) -> None:
    """Remove the input of a job after its output was made durable and `encoded` was decoded again
    and compared with `original`; they are the two files of the job.

    Raises WcodecError if they differ, OSError if the disk does not take them; the input stays.
    """
    from wcodec.decode import decode_checkpoint
    from wcodec.directories import Comparison, DiffersError
    from wcodec.errors import CorruptError

    for path in (Path(job.output), Path(job.output).absolute().parent):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    try:
        with Comparison(original) as comparison:
            decode_checkpoint(encoded, comparison)
    except DiffersError:
        raise CorruptError(
            f"{encoded}: does not decode to what {original} holds; {job.input} stays"
        ) from None
    os.unlink(job.input)
