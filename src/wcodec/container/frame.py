# SPDX-License-Identifier: Apache-2.0
"""Metadata and index as stored: as they are, or as a zstd frame where they are large."""

from __future__ import annotations

from wcodec import zstd_frame
from wcodec.container.constants import ZSTD_FROM_BYTES


def store(content: bytes) -> tuple[bytes, bool]:
    """Return `content` as the writer stores it, and whether that is a zstd frame."""
    if len(content) < ZSTD_FROM_BYTES:
        return content, False
    frame = zstd_frame.compress(content)
    return (frame, True) if len(frame) < len(content) else (content, False)


def load(stored: bytes, content_bytes: int, is_zstd: bool, where: str) -> bytes:
    """Return the content of `stored`, which must be exactly `content_bytes`; the mirror of store().

    The caller has checked `content_bytes` against a limit, since that much memory is taken, and
    against the size of `stored` where that is no frame. Raises CorruptError.
    """
    return zstd_frame.decompress(stored, content_bytes, where) if is_zstd else stored
