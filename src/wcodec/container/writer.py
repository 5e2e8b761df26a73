# SPDX-License-Identifier: Apache-2.0
"""Write a file front to back: header, metadata, one record after the other, index, footer.

The target only needs write(): it is never asked to seek, tell or read, so a pipe or an upload will
do. A record's CRC and the file's come from one pass over each buffer as it is written: a record is
hashed on its own, and its CRC is combined into that of the file.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import numpy as np

from wcodec.block_header import block_name
from wcodec.checksum import Buffer, crc32, crc32_combine
from wcodec.container import frame
from wcodec.container.blocks import (
    Bytes,
    as_headers,
    block_offsets,
    check_headers,
    first_difference,
    inline_headers,
    pack_directory,
)
from wcodec.container.constants import (
    HEADER_BYTES,
    KIND_REFERENCE,
    KIND_STORED,
    RECORD_ALIGNMENT,
    align,
)
from wcodec.container.head import LayerHead, first_block_offset
from wcodec.container.index import IndexEntry, entry_of, pack_index, target_problem
from wcodec.container.metadata import Metadata
from wcodec.container.records import BlockHeaders, Footer, Header
from wcodec.errors import FormatError
from wcodec.limits import ReadLimits


class Writer:
    """Writes one wcodec file to `file`, any object with write().

    Use it as a context manager: leaving it closes the container (not `file`), leaving it by an
    exception writes nothing more. `file.write` gets bytes-like objects that are valid during the
    call only; it may take a part and return how much, as raw files do. After a failed write the
    writer refuses further use. Misuse raises ValueError.

    >>> import io
    >>> with Writer(io.BytesIO(), metadata=Metadata("0.1.0")) as writer:
    ...     writer.begin_layer(LayerHead("empty", "F32", (0, 4), 0, unit_bytes=4))
    ...     entry = writer.end_layer()
    >>> entry.record_bytes
    128
    """

    def __init__(self, file: Any, *, metadata: Metadata) -> None:
        self._file = file
        self._references = metadata.duplicates
        self._layers: dict[str, IndexEntry] = {}
        self._head: LayerHead | None = None
        self._headers: list[bytes] = []  # of the blocks of the layer that is open
        self._n_blocks = 0
        self.file_bytes = 0  # written so far
        self._file_crc = 0  # of everything before the record that is open
        self._record_offset = 0
        self._record_crc = 0
        self._state = "open"
        self._write_metadata(metadata.pack())

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._state = "aborted"
        elif self._state != "closed":
            self.close()

    def begin_layer(self, head: LayerHead) -> None:
        """Begin the record of a stored layer; its blocks follow by write_blocks()."""
        self._check_new(head, KIND_STORED)
        packed = head.pack()
        self._head = head
        self._headers = []
        self._n_blocks = 0
        self._write_record(packed + bytes(first_block_offset(len(packed)) - len(packed)))

    def write_blocks(self, headers: Buffer, data: Buffer) -> None:
        """Write a run of complete blocks: `data` is their bytes back to back, `headers` their
        16-byte headers again.
        """
        head = self._open_layer()
        if not head.data_bytes:
            raise ValueError(f"layer {head.name!r:.200} has no bytes, so it has no blocks")
        run, content = as_headers(headers), np.frombuffer(data, np.uint8)
        _check_run(run, content, self._n_blocks, head.name)
        self._headers.append(run.tobytes())
        self._n_blocks += len(run)
        self._write_record(content)

    def end_layer(self) -> IndexEntry:
        """End the record of a layer with its directory and return its index entry."""
        head = self._open_layer()
        if head.data_bytes and not self._n_blocks:
            raise ValueError(f"layer {head.name!r:.200} of {head.data_bytes} bytes has no blocks")
        directory_offset = self.file_bytes - self._record_offset
        self._write_record(pack_directory(b"".join(self._headers)))
        return self._end_record(head, directory_offset, self._n_blocks)

    def add_reference(self, head: LayerHead) -> IndexEntry:
        """Write a layer that has the bytes of an earlier one (LayerHead.reference) and return its
        index entry.
        """
        self._check_new(head, KIND_REFERENCE)
        if not self._references:
            raise ValueError("references need metadata with duplicates=True")
        problem = target_problem(head, self._layers)
        if problem is not None:
            raise ValueError(f"layer {head.name!r:.200}: {problem}")
        self._write_record(head.pack())
        return self._end_record(head, 0, 0)

    def copy_record(self, head: LayerHead, entry: IndexEntry, pieces: Iterable[Buffer]) -> None:
        """Write the record of a layer of another file, whose bytes are `pieces`.

        Raises ValueError if they are not what its index entry says.
        """
        self._check_new(head, entry.kind)
        problem = target_problem(head, self._layers)
        if head.kind == KIND_REFERENCE and not self._references:
            problem = "is a reference, which needs metadata with duplicates=True"
        if problem is not None:
            raise ValueError(f"layer {head.name!r:.200}: {problem}")
        for piece in pieces:
            self._write_record(piece)
        found = self.file_bytes - self._record_offset, self._record_crc
        if found != (entry.record_bytes, entry.record_crc):
            self._state = "broken by a wrong record"
            raise ValueError(f"layer {head.name!r:.200}: its record is not what its entry says")
        self._end_record(head, entry.directory_offset, entry.n_blocks)

    def close(self) -> None:
        """Write index and footer. `file` stays open."""
        self._check_open()
        if self._head is not None:
            raise ValueError(f"layer {self._head.name!r:.200} was not ended")
        index = pack_index(self._layers)
        index_offset = self.file_bytes
        self._write_file(index)
        footer = Footer(index_offset, len(index), crc32(index), self._file_crc)
        self._write_file(footer.pack())
        self._state = "closed"

    def _write_metadata(self, metadata: bytes) -> None:
        stored, is_zstd = frame.store(metadata)
        header = Header(len(stored), len(metadata), crc32(stored), is_zstd)
        padding = header.first_record_offset - HEADER_BYTES - len(stored)
        self._write_file(header.pack() + stored + bytes(padding))
        self._record_offset = self.file_bytes

    def _check_open(self) -> None:
        if self._state != "open":
            raise ValueError(f"the writer is {self._state}")

    def _open_layer(self) -> LayerHead:
        self._check_open()
        if self._head is None:
            raise ValueError("no layer was begun")
        return self._head

    def _check_new(self, head: LayerHead, kind: int) -> None:
        self._check_open()
        if self._head is not None:
            raise ValueError(f"layer {self._head.name!r:.200} was not ended")
        problem = head.problem()
        if head.kind != kind:
            problem = f"kind is {head.kind}, expected {kind}"
        if head.name in self._layers:
            problem = "is in the file already"
        if problem is not None:
            raise ValueError(f"layer {head.name!r:.200}: {problem}")

    def _end_record(self, head: LayerHead, directory_offset: int, n_blocks: int) -> IndexEntry:
        used = self.file_bytes - self._record_offset
        self._write_record(bytes(align(used, RECORD_ALIGNMENT) - used))
        record_bytes = self.file_bytes - self._record_offset
        entry = entry_of(
            head,
            record_offset=self._record_offset,
            record_bytes=record_bytes,
            directory_offset=directory_offset,
            record_crc=self._record_crc,
            n_blocks=n_blocks,
        )
        self._layers[head.name] = entry
        self._file_crc = crc32_combine(self._file_crc, self._record_crc, record_bytes)
        self._record_offset = self.file_bytes
        self._record_crc = 0
        self._head = None
        return entry

    def _write_record(self, data: Buffer) -> None:
        self._record_crc = crc32(data, self._record_crc)
        self._write(data)

    def _write_file(self, data: Buffer) -> None:
        self._file_crc = crc32(data, self._file_crc)
        self._write(data)

    def _write(self, data: Buffer) -> None:
        view = np.frombuffer(data, np.uint8).data
        try:
            while len(view):
                view = view[self._write_some(view) :]
        except BaseException:
            self._state = "broken by a failed write"
            raise

    def _write_some(self, view: memoryview) -> int:
        n = self._file.write(view)
        if n is None:
            if isinstance(self._file, io.RawIOBase):
                raise BlockingIOError("the file is non-blocking and full")
            n = len(view)  # an object that takes all and does not say so
        if not 0 < n <= len(view):
            raise OSError(f"write() of {len(view)} bytes returned {n}")
        self.file_bytes += n
        return int(n)


def _check_run(run: BlockHeaders, data: Bytes, first: int, layer: str) -> None:
    """Raise ValueError unless `data` is just the blocks with these headers."""
    try:
        check_headers(run, lambda i: block_name(first + i, layer), ReadLimits())
    except FormatError as error:
        raise ValueError(str(error)) from error
    offsets = block_offsets(run)
    if offsets[-1] != len(data):
        raise ValueError(
            f"blocks {first} ... of {layer!r:.200}: {len(data)} bytes, headers say {offsets[-1]}"
        )
    difference = first_difference(inline_headers(data, offsets[:-1]), run)
    if difference is not None:
        raise ValueError(f"{block_name(first + difference, layer)}: header is not at its place")
