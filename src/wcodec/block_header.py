"""The 16 bytes before every block: the one record that the container and the codec both read.

docs/format.md section 6. The container copies these headers into directories and adds up their
sizes; the codec fills and obeys them. In C++ it is `BlockHeader` in core/block.hpp.
"""

import numpy as np
from numpy.typing import NDArray

BLOCK_HEADER = np.dtype(
    [
        ("crc", "<u4"),
        ("coding", "u1"),
        ("form", "u1"),
        ("n_streams", "u1"),
        ("reserved", "u1"),
        ("payload_bytes", "<u8"),
    ]
)
BLOCK_ALIGNMENT = 16


def block_name(number: int, layer: str) -> str:
    """What messages call a block; the name of the layer may be long."""
    return f"block {number} of {layer!r:.200}"


def block_sizes(headers: NDArray[np.void]) -> NDArray[np.uint64]:
    """Size in the file of each block: header, payload and padding. Payload sizes must be below
    2^63.
    """
    rounded = headers["payload_bytes"] + np.uint64(BLOCK_HEADER.itemsize + BLOCK_ALIGNMENT - 1)
    return rounded & ~np.uint64(BLOCK_ALIGNMENT - 1)
