# SPDX-License-Identifier: Apache-2.0
"""A file appears whole or not at all.

It is written under another name in the same directory, made durable, and given its name in one
step, so neither an error nor a crash nor a reader at the wrong moment ever shows half of it.
Without `force` that step also fails if the name was taken meanwhile: a hard link cannot replace a
file. What is no regular file (a pipe, a terminal, /dev/null) has nothing to replace and is written
to as it is.

A process that is killed leaves its temporary file. Its name says for which target it was, and its
writer holds a lock on it that ends with the process, so the next writer of the target can tell a
file that nobody writes and removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# Names of descriptors of this process. They may stand for regular files, which must not be
# replaced.
_DESCRIPTOR = r"/dev/(?:fd/(\d+)|(stdout)|(stderr))|/proc/self/fd/(\d+)"
# A hash of the target's name, then a random number.
_TEMPORARY = r"\.[0-9a-f]{16}\.[0-9a-f]{16}\.wcodec\.tmp"
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
    descriptor = re.fullmatch(_DESCRIPTOR, os.path.abspath(target))  # resolves no link
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


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that publish() is writing, or was when it was killed."""
    return re.fullmatch(_TEMPORARY, name) is not None


def remove_stale(directory: str | os.PathLike[str], target: str | None = None) -> None:
    """Remove the temporary files in `directory` that no living process writes, only those for the
    file name `target` if that is given.

    What cannot be looked at or removed stays; that is no error.
    """
    prefix = "." if target is None else _temporary_prefix(target)
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        if name.startswith(prefix) and is_temporary(name):
            _remove_if_stale(Path(directory) / name)


def _remove_if_stale(path: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)


def _temporary_prefix(target: str) -> str:
    import hashlib  # not for those who only read

    return f".{hashlib.blake2b(os.fsencode(target), digest_size=8).hexdigest()}."


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Give a new file beside `target`; it is gone at the end unless it was renamed."""
    remove_stale(target.parent, target.name)
    path = target.parent / f"{_temporary_prefix(target.name)}{os.urandom(8).hex()}.wcodec.tmp"
    with contextlib.ExitStack() as stack:
        try:
            descriptor = _create_locked(path)
            # A second descriptor keeps the lock from the closing of the file to its renaming.
            stack.callback(os.close, os.dup(descriptor))
            with os.fdopen(descriptor, "wb") as file:
                yield path, file
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _create_locked(path: Path) -> int:
    """Create a file and lock it; returns its descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):  # without locks none is ever found stale
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:  # else taken for stale before it was locked
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


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
