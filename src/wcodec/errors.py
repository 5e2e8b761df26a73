# SPDX-License-Identifier: Apache-2.0
"""The errors of wcodec: one tree, under the error class of safetensors.

Caller mistakes stay TypeError, ValueError and KeyError, and errors of the operating system pass
through. Every message says what was wrong, where, what was found and what was expected.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from safetensors import SafetensorError


class WcodecError(SafetensorError):
    """Any failure of wcodec that is neither a caller's mistake nor the operating system's."""


class FormatError(WcodecError):
    """A file cannot be read: one of the four classes below says why."""


class TruncatedError(FormatError):
    """Bytes are missing: the file or stream ends before something it declares, or has no footer."""


class CorruptError(FormatError):
    """A file breaks a rule of its format: a wrong checksum, size, order, field or padding."""


class UnsupportedError(FormatError):
    """A file is of another version, or uses what this version of wcodec does not know."""


class LimitError(FormatError):
    """A file exceeds a limit of the reader; the message names the limit and how to raise it."""


class DeviceError(WcodecError):
    """A device (a GPU, its driver) is missing, refused the work or reported a failure."""


class PartialError(WcodecError):
    """Some files of several could not be converted; the others were.

    `failures` maps the path of each to its error, `n_done` counts those that succeeded.
    """

    def __init__(self, failures: Mapping[str, Exception], n_done: int) -> None:
        self.failures = dict(failures)
        self.n_done = n_done
        total = n_done + len(self.failures)
        reasons = "; ".join(f"{path}: {unnamed(e, path)}" for path, e in self.failures.items())
        super().__init__(f"{len(self.failures)} of {total} files failed: {reasons}")


def reason(error: Exception) -> str:
    """What an error says, in one line, without the name of the file that an OSError repeats."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def named(error: FormatError, source: object) -> FormatError:
    """The same error of the file `source` with its path in front, if it has one."""
    if not isinstance(source, str | bytes | os.PathLike):
        return error
    return type(error)(f"{os.fsdecode(source)}: {str(error).removeprefix('file: ')}")


def unnamed(error: Exception, path: str) -> str:
    """What an error says, in one line, without the path of its file in front."""
    return reason(error).removeprefix(f"{path}: ")
