# SPDX-License-Identifier: Apache-2.0
"""Carrying out the plan of a directory (checkpoint.py), for encoding and decoding alike: shards are
converted, other files copied, and the index comes last, so a directory that has it is complete.

Every file appears whole or not at all. If one input is bad, the others are still converted, and
PartialError names it. If the output cannot be written, or on an interrupt, all that the run has
made is removed again; only a run that resumes leaves what it finished.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from wcodec.checkpoint import CheckpointPlan, Item, join
from wcodec.errors import CorruptError, PartialError, WcodecError
from wcodec.progress import Counter, Progress
from wcodec.publication import is_temporary, publish, remove_stale

PIECE_BYTES = 8 << 20
# What is wrong with the output, whichever file was to be written next.
_OUTPUT_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}

# Converts a file (source, target, progress) and returns how many bytes it wrote.
Convert = Callable[[str, str, Progress | None], int]
# Whether a target that exists is what converting the source gives.
Matches = Callable[[str, str, Progress | None], bool]


def convert_directory(
    plan: CheckpointPlan,
    output: str,
    convert: Convert,
    matches: Matches,
    *,
    resume: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    """Make the directory `output` of a plan; files of it that exist are replaced, or with `resume`
    kept where they are right.

    Returns `input_bytes` and `output_bytes` (of the shards), `files` (a dict a shard: source,
    target, input_bytes, output_bytes, kept), `copied` and `left_out`. Raises PartialError if some
    files fail, ValueError for an output that is in the
    wrong place or holds other files.
    """
    check_place(plan.source, output)
    _check_content(plan, output)
    run = _Run(plan, output, convert, matches, resume, progress)
    with run.undone_on_error():
        run.prepare_output()
        run.convert_shards()
        run.copy_files()
        if run.failures:
            run.fail()
        run.write_indexes()
    return {
        "input_bytes": sum(file["input_bytes"] for file in run.files),
        "output_bytes": sum(file["output_bytes"] for file in run.files),
        "files": run.files,
        "copied": [item.target for item in plan.copies],
        "left_out": plan.left_out,
    }


def check_place(source: str, output: str) -> None:
    """Raise ValueError for an output directory that is the input, in it or around it."""
    a, b = os.path.realpath(source), os.path.realpath(output)
    if a == b:
        raise ValueError(f"output {output!r} is the input itself")
    if os.path.commonpath([a, b]) == a:
        raise ValueError(f"output {output!r} is inside the input {source!r}")
    if os.path.commonpath([a, b]) == b:
        raise ValueError(f"input {source!r} is inside the output {output!r}")


def _check_content(plan: CheckpointPlan, output: str) -> None:
    """Raise ValueError for anything in the output that the plan would not write, FileExistsError
    for an output that is no directory.
    """
    if not os.path.isdir(output):
        if os.path.lexists(output):
            raise FileExistsError(errno.EEXIST, "exists and is not a directory", output)
        return
    targets, directories = plan.targets(), set(plan.directories)
    todo = [""]
    while todo:
        below = todo.pop()
        for entry in _entries(join(output, below)):
            path = join(below, entry.name)
            if entry.is_dir(follow_symlinks=False) and path in directories:
                todo.append(path)
            elif not is_temporary(entry.name) and (path not in targets or not _is_plain(entry)):
                raise ValueError(
                    f"{entry.path}: is in the output directory, but not what this run would write "
                    "there; choose another directory or remove it"
                )


def _entries(directory: str) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(entries)


def _is_plain(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() or entry.is_file()


class _Run:
    """One run over a plan: what it has made and what has failed."""

    def __init__(
        self,
        plan: CheckpointPlan,
        output: str,
        convert: Convert,
        matches: Matches,
        resume: bool,
        progress: Progress | None,
    ) -> None:
        self._plan = plan
        self._output = output
        self._convert = convert
        self._matches = matches
        self._resume = resume
        self._counter = Counter(progress, sum(item.n_bytes for item in plan.shards))
        self._made: list[str] = []  # files, in order
        self._made_directories: list[str] = []
        self.files: list[dict[str, Any]] = []
        self.failures: dict[str, Exception] = {}

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Remove what was made if an error leaves the block, except for a PartialError and where
        the run may be resumed.
        """
        try:
            yield
        except PartialError as error:
            if not error.n_done and not self._resume:
                self._undo()
            raise
        except BaseException:
            if not self._resume:
                self._undo()
            raise

    def _undo(self) -> None:
        for path in reversed(self._made):
            with contextlib.suppress(OSError):
                os.unlink(path)
        for path in reversed(self._made_directories):
            with contextlib.suppress(OSError):
                os.rmdir(path)

    def prepare_output(self) -> None:
        """Make the output and the directories in it; remove what killed runs have left there, and
        an index.
        """
        for below in ("", *self._plan.directories):
            path = join(self._output, below)
            if os.path.isdir(path):
                remove_stale(path)
            else:
                self._made_directories.append(path)
                os.mkdir(path)

        for target, _ in self._plan.indexes:  # of an earlier run; the shards are about to change
            with contextlib.suppress(FileNotFoundError):
                os.unlink(join(self._output, target))

    def convert_shards(self) -> None:
        for item in self._plan.shards:
            start = self._counter.done
            with self._failure_noted(item):
                if item.source in self._plan.broken:
                    raise self._plan.broken[item.source]
                self._convert_one(item)
            self._counter.add(start + item.n_bytes - self._counter.done)

    def _convert_one(self, item: Item) -> None:
        source, target = join(self._plan.source, item.source), join(self._output, item.target)
        kept = self._resume and self._is_right(source, target, item.n_bytes)
        if kept:
            output_bytes = os.stat(target).st_size
        else:
            with self._making(target):
                output_bytes = self._convert(source, target, self._counter.part(item.n_bytes))
        self.files.append(
            {
                "source": item.source,
                "target": item.target,
                "input_bytes": item.n_bytes,
                "output_bytes": output_bytes,
                "kept": kept,
            }
        )

    def _is_right(self, source: str, target: str, n_bytes: int) -> bool:
        if os.path.islink(target) or not os.path.isfile(target):
            return False
        try:
            return self._matches(source, target, self._counter.part(n_bytes))
        except WcodecError:
            return False

    def copy_files(self) -> None:
        for item in self._plan.copies:
            with self._failure_noted(item):
                source = join(self._plan.source, item.source)
                target = join(self._output, item.target)
                with self._making(target):
                    copy_file(source, target)

    def write_indexes(self) -> None:
        for path, content in self._plan.indexes:
            target = join(self._output, path)
            with self._making(target), publish(target, force=True) as file:
                file.write(content)

    @contextmanager
    def _making(self, target: str) -> Iterator[None]:
        # Noted before it is there, so that no interrupt can come between.
        if not os.path.lexists(target):
            self._made.append(target)
        yield

    @contextmanager
    def _failure_noted(self, item: Item) -> Iterator[None]:
        """Note an error that only concerns this item; others pass."""
        try:
            yield
        except (WcodecError, OSError, ValueError) as error:
            if isinstance(error, OSError) and self._is_of_output(error):
                raise
            self.failures[join(self._plan.source, item.source)] = error

    def _is_of_output(self, error: OSError) -> bool:
        if error.errno in _OUTPUT_ERRORS:
            return True
        return isinstance(error.filename, str) and Path(error.filename).is_relative_to(self._output)

    def fail(self) -> NoReturn:
        """Raise what the failures come to."""
        raise PartialError(self.failures, n_done=len(self.files))


def copy_file(source: str, target: str) -> None:
    """Copy a file; the copy appears whole or not at all. Raises CorruptError if the source is
    written to meanwhile.
    """
    with open(source, "rb", buffering=0) as file, publish(target, force=True) as copy:
        before = os.fstat(file.fileno())
        while piece := file.read(PIECE_BYTES):
            copy.write(piece)
        after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise CorruptError(f"{source}: changed while it was read")


class DiffersError(Exception):
    """A file is not what was to be written."""


class Comparison:
    """Compares a file with what is written to this, instead of writing it; raises DiffersError."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed by __exit__
        self._left = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> Comparison:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None and self._left:
            raise DiffersError

    def write(self, data: Any) -> None:
        expected = np.frombuffer(data, np.uint8)
        self._left -= len(expected)
        while len(expected):
            found = np.frombuffer(self._file.read(min(len(expected), PIECE_BYTES)), np.uint8)
            if not len(found) or not np.array_equal(found, expected[: len(found)]):
                raise DiffersError
            expected = expected[len(found) :]
