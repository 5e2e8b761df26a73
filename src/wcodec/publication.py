# SPDX-License-Identifier: Apache-2.0
"""A file appears whole or not at all.

It is written under another name in the same directory, made durable, and given its name in one
step, so neither an error nor a crash nor a reader at the wrong moment ever shows half of it.
Without `force` that step also fails if the name was taken meanwhile: a hard link cannot replace a
file. What is no regular file (a pipe, a terminal, /dev/null) has nothing to replace and is written
to as it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# Names of descriptors of this process. They may stand for regular files, which must not be
# replaced.
_DESCRIPTOR = re.compile(r"/dev/(?:fd/(\d+)|(stdout)|(stderr))|/proc/self/fd/(\d+)")
# What a file system says that has no hard links, or none here.
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}


@contextmanager
def publish(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[BinaryIO]:
    """Give a binary file to write to that becomes `path` when the block is left without an error.

    Without `force` an existing file is refused with FileExistsError, on entry and again at the end.
    With `force` it is replaced; a symbolic link is replaced itself. After any exception nothing is
    left behind. The permissions are those of a new file. Raises IsADirectoryError for a directory,
    OSError.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "model.wcodec"
    >>> with publish(target) as file:
    ...     _ = file.write(b"all of it")
    >>> target.read_bytes()
    b'all of it'
    """
    target = Path(path)
    special = _open_special(target)
    if special is not None:
        with special:
            yield special
        return
    if not force and _exists(target):
        raise FileExistsError(errno.EEXIST, "exists already", str(target))
    with _temporary(target) as (temporary, file):
        yield file
        file.flush()
        os.fsync(file.fileno())
        file.close()
        if force:
            temporary.replace(target)
        else:
            _rename_to_new(temporary, target)
        _sync_directory(target.parent)


def _open_special(target: Path) -> BinaryIO | None:
    """Return what is at `target` opened for writing if that is no regular file, else None."""
    descriptor = _DESCRIPTOR.fullmatch(os.path.abspath(target))  # resolves no link
    if descriptor is not None:
        numbers = {"stdout": 1, "stderr": 2}
        name = next(group for group in descriptor.groups() if group is not None)
        # A duplicate shares the position, and appends where the original does.
        return os.fdopen(os.dup(numbers.get(name) or int(name)), "wb")
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(target))
    if stat.S_ISREG(mode):
        return None
    return os.fdopen(os.open(target, os.O_WRONLY | os.O_CLOEXEC), "wb")


def _exists(target: Path) -> bool:
    # A dangling link is there as well.
    return target.is_symlink() or target.exists()


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Give a new file beside `target`; it is gone at the end unless it was renamed."""
    path = target.parent / f".{secrets.token_hex(8)}.wcodec.tmp"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield path, file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _rename_to_new(temporary: Path, target: Path) -> None:
    """Rename, or raise FileExistsError if there is a file of that name."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _claim_and_rename(temporary, target)
    else:
        temporary.unlink()


def _claim_and_rename(temporary: Path, target: Path) -> None:
    """Take the name with an empty file, which only one process can do, then replace that."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        temporary.replace(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _sync_directory(directory: Path) -> None:
    """Make the new name durable, as far as the file system can and the directory may be read."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
