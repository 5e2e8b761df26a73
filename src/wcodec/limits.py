# SPDX-License-Identifier: Apache-2.0
"""What a reader is willing to take from a file, whatever the file says.

A file of a few bytes can declare a layer of exabytes; sizes that a file must first contain
(payloads, the index) need no limit for safety but get one, so that memory is bounded by a number
one can look up. The defaults are far above any model published so far; each can be raised or
lowered per read.
"""

from __future__ import annotations

from dataclasses import dataclass

from wcodec.errors import LimitError

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class ReadLimits:
    """Limits of a reader; whatever exceeds one raises LimitError, which names the field.

    >>> ReadLimits(layer_bytes=1 << 42).layer_bytes
    4398046511104
    """

    # The JSON holds the header of the source, which safetensors limits to 100 MB, with its quotes
    # escaped (at most twice the size).
    metadata_bytes: int = 256 * MIB
    # A million layers with names of 150 bytes.
    index_bytes: int = 256 * MIB
    # Ten times the largest published model; a reader holds about 1 KiB of objects a layer.
    n_layers: int = 1_000_000
    # Of one name; the longest of a published model have some 200 bytes.
    name_bytes: int = 64 << 10
    # What a numpy array may have.
    rank: int = 64
    # Decoded size of one layer; the largest published stacks of experts have some 10 GiB.
    layer_bytes: int = 1 << 40
    # A layer of the largest size in blocks of 64 KiB; a reader holds 16 bytes a block.
    n_blocks: int = 1 << 24
    # Payload of one block. The format allows 32 MiB; a directory has 16 bytes a block.
    block_bytes: int = 256 * MIB
    # Decoded size of a whole file, references included.
    total_bytes: int = 1 << 44
    # Decoded bytes for each byte of the file: layers of zeros shrink 5,000 to 11,000 times in
    # blocks of 131,072 elements.
    expansion: int = 16_384
    # What a file of any size may decode to before `expansion` counts.
    expansion_free_bytes: int = 64 * GIB

    def check(self, limit: str, found: int, where: str) -> None:
        """Raise LimitError if `found` is above the field `limit`; `where` begins the message."""
        allowed: int = getattr(self, limit)
        if found > allowed:
            raise LimitError(
                f"{where} is {found}, the limit is {allowed}; "
                f"to accept it, read with limits=ReadLimits({limit}={found})"
            )

    def check_total(self, decoded_bytes: int, file_bytes: int) -> None:
        """Raise LimitError if a file of `file_bytes` (or what was read of it) may not decode to
        `decoded_bytes`.
        """
        self.check("total_bytes", decoded_bytes, "file: decoded size of all layers")
        allowed = self.expansion_free_bytes + self.expansion * file_bytes
        if decoded_bytes > allowed:
            needed = -(-(decoded_bytes - self.expansion_free_bytes) // max(1, file_bytes))
            raise LimitError(
                f"file: {file_bytes} bytes decode to {decoded_bytes}, the limit is {allowed}; "
                f"to accept it, read with limits=ReadLimits(expansion={needed})"
            )
