# SPDX-License-Identifier: Apache-2.0
"""The original files of a wcodec file or directory, for tools that read only those: decoded into a
cache directory once, whoever asks.

An entry is named by what it was made of, the checksums of the wcodec files and the sizes and times
of others; it is decoded under another name and renamed when it is complete, under a lock that ends
with the process.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from wcodec.checkpoint import SOURCE_SUFFIX, SUFFIX, Item, join, plan_decode
from wcodec.container.constants import FOOTER_BYTES
from wcodec.decode import Path, decode_checkpoint
from wcodec.limits import ReadLimits


def materialize(
    path: Path,
    dir: Path | None = None,
    *,
    threads: int | None = None,
    limits: ReadLimits | None = None,
) -> str:
    """Return the path of the safetensors file, or the directory, that `path` was made of.

    It is below `dir`, by default `WCODEC_CACHE` or wcodec/ in the user's cache directory, and made
    by the first call only; several processes may call at once. Nothing there is ever removed: that
    is up to you. Raises what decode_checkpoint raises; nothing is left behind then.

    >>> import numpy as np, tempfile, wcodec
    >>> folder = tempfile.mkdtemp()
    >>> _ = wcodec.encode_checkpoint({"a": np.zeros(3)}, f"{folder}/a.wcodec")
    >>> os.path.basename(materialize(f"{folder}/a.wcodec", folder))
    'a.safetensors'
    """
    path = os.fspath(path)
    cache = os.path.abspath(dir if dir is not None else _default_cache())
    name = os.path.basename(os.path.normpath(path)).removesuffix(SUFFIX)
    entry = os.path.join(cache, f"{name}-{_fingerprint(path, limits)}")
    inside = entry if os.path.isdir(path) else os.path.join(entry, name + SOURCE_SUFFIX)
    if os.path.isdir(entry):
        return inside
    os.makedirs(cache, exist_ok=True)
    with _locked(entry + ".lock"):
        if not os.path.isdir(entry):
            _make(path, inside, entry, threads, limits)
    return inside


def _make(
    path: str, inside: str, entry: str, threads: int | None, limits: ReadLimits | None
) -> None:
    partial = entry + ".partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        os.mkdir(partial)
        output = partial + inside.removeprefix(entry)
        decode_checkpoint(path, output, threads=threads, limits=limits)
        os.rename(partial, entry)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _default_cache() -> str:
    user = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("WCODEC_CACHE") or os.path.join(user, "wcodec")


def _fingerprint(path: str, limits: ReadLimits | None) -> str:
    """Names the content: footers hold the checksum of their file."""
    if os.path.isdir(path):
        plan = plan_decode(path, limits)
        shards, others = plan.shards, plan.copies
        indexes = plan.indexes
    else:
        shards, others, indexes = [Item("", "", os.path.getsize(path))], [], []
    import hashlib

    found = hashlib.blake2b(digest_size=8)
    for item in shards:
        with open(join(path, item.source), "rb") as file:
            file.seek(max(item.n_bytes - FOOTER_BYTES, 0))
            found.update(repr((item.target, item.n_bytes, file.read())).encode())
    for item in others:
        time = os.stat(join(path, item.source)).st_mtime_ns
        found.update(repr((item.target, item.n_bytes, time)).encode())
    found.update(repr(indexes).encode())
    return found.hexdigest()


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold a lock between processes and threads; the empty file stays."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
