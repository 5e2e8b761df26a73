# SPDX-License-Identifier: Apache-2.0
"""zstd frames as the format wants them: one frame that states its content size, no dictionary,
nothing behind it.

Both the container (metadata, index) and the codec (lz blocks, maps of row groups) store such
frames. zstandard is imported with the first of them: small files have none.
"""

from __future__ import annotations

from wcodec.errors import CorruptError

LEVEL = 3
MAX_WINDOW_BYTES = 1 << 25  # docs/format.md section 1

_MAGIC = b"\x28\xb5\x2f\xfd"


def compress(content: bytes | memoryview, level: int = LEVEL) -> bytes:
    """Return a frame of `content`, the same for the same version of zstd."""
    import zstandard

    return zstandard.ZstdCompressor(level=level, write_content_size=True).compress(content)


def decompress(frame: bytes | memoryview, content_bytes: int, where: str) -> bytes:
    """Return the content of `frame`, which must be exactly `content_bytes`; `where` begins the
    message of an error.

    The caller has checked `content_bytes` against a limit: that much memory is taken. Raises
    CorruptError.
    """
    import zstandard

    _check_frame(memoryview(frame), content_bytes, where)
    try:
        return zstandard.ZstdDecompressor().decompress(
            frame, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise CorruptError(f"{where}: zstd frame does not decode: {error}") from error


def _check_frame(frame: memoryview, content_bytes: int, where: str) -> None:
    import zstandard

    if frame[:4] != _MAGIC:
        raise CorruptError(
            f"{where}: starts with {frame[:4].hex()}, a zstd frame with {_MAGIC.hex()}"
        )
    try:
        parameters = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise CorruptError(f"{where}: zstd frame header does not parse: {error}") from error
    if parameters.content_size == zstandard.CONTENTSIZE_UNKNOWN:
        raise CorruptError(f"{where}: zstd frame does not state its content size")
    if parameters.dict_id:
        raise CorruptError(f"{where}: zstd frame uses dictionary {parameters.dict_id}")
    if parameters.content_size != content_bytes:
        raise CorruptError(
            f"{where}: zstd frame holds {parameters.content_size} bytes, expected {content_bytes}"
        )
    if parameters.window_size > MAX_WINDOW_BYTES:
        raise CorruptError(
            f"{where}: zstd frame has a window of {parameters.window_size} bytes, "
            f"expected at most {MAX_WINDOW_BYTES}"
        )
    # Nothing is stored as a frame of nothing: zstandard would not look at what such a frame holds.
    if content_bytes == 0:
        raise CorruptError(f"{where}: zstd frame without content")
