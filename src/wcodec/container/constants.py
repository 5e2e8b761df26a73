# SPDX-License-Identifier: Apache-2.0
"""The numbers of the container: magics, sizes, alignments, flags (docs/format.md sections 2 to 4, 9
and 10).

Constants of the entropy streams live in core/stream_format.hpp, the header of a block in
block_header.py. The coding of the directory and the slack that a decoder may read are needed here
and in the core and stand in both; a test compares them.
"""

from __future__ import annotations

# Format: changing anything from here to MAX_DTYPE_BYTES changes what a file means.
MAJOR, MINOR = 0, 9

HEADER_MAGIC = b"WCDC"
RECORD_MAGIC = b"WLYR"
INDEX_MAGIC = b"WIDX"
FOOTER_MAGIC = b"CDCW"

HEADER_BYTES = 32
HEAD_FIXED_BYTES = 56  # of a record's head, before the shape
CRC_BYTES = 4
BLOCK_HEADER_BYTES = 16  # as block_header.BLOCK_HEADER says
INDEX_HEAD_BYTES = 32
ENTRY_FIXED_BYTES = 56  # of an index entry, before the shape
FOOTER_BYTES = 32

RECORD_ALIGNMENT = 64

FLAG_ZSTD = 1  # of the header and the index
FLAG_ROW_GROUPS = 1  # of a head

KIND_STORED = 0
KIND_REFERENCE = 1

CODING_DIRECTORY = 255
FAMILIES = {0: "raw", 2: "rans16", 3: "rans32", 4: "spatial", 5: "lz"}
RESERVED_FAMILIES = {6: "delta"}

MAX_DTYPE_BYTES = 255

# ---- What is no part of the format ----

# What the writer does: it compresses the metadata and the index from this size on. Below, a frame
# saves nothing that counts, and the JSON stays readable in a hex dump.
ZSTD_FROM_BYTES = 1024

# Sizes of real files stay far below; so sums of checked sizes fit 63 bits.
MAX_FILE_BYTES = 1 << 62

# What whoever decodes blocks may read behind them.
READ_SLACK_BYTES = 64


def align(n: int, alignment: int) -> int:
    """Return the smallest multiple of `alignment` that is not below `n`.

    >>> align(0, 16), align(1, 16), align(16, 16)
    (0, 16, 16)
    """
    return -(-n // alignment) * alignment
