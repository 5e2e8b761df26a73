# SPDX-License-Identifier: Apache-2.0
"""The low level of a wcodec file: bytes and offsets, no numbers (docs/format.md).

Writer streams a file out, Reader reads any layer of one, SequentialReader reads one front to back
from a pipe. What a block's payload means is the codec's.
"""

from wcodec.block_header import BLOCK_HEADER
from wcodec.container.blocks import Blocks, block_offsets
from wcodec.container.constants import KIND_REFERENCE, KIND_STORED
from wcodec.container.head import LayerHead
from wcodec.container.index import IndexEntry
from wcodec.container.layer import Layer
from wcodec.container.metadata import Metadata
from wcodec.container.reader import Reader
from wcodec.container.scan import Skipped
from wcodec.container.sequential import SequentialLayer, SequentialReader
from wcodec.container.source import BytesInput, RangeSource
from wcodec.container.writer import Writer

__all__ = [
    "BLOCK_HEADER",
    "KIND_REFERENCE",
    "KIND_STORED",
    "Blocks",
    "BytesInput",
    "IndexEntry",
    "Layer",
    "LayerHead",
    "Metadata",
    "RangeSource",
    "Reader",
    "SequentialLayer",
    "SequentialReader",
    "Skipped",
    "Writer",
    "block_offsets",
]
