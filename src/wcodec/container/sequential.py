# SPDX-License-Identifier: Apache-2.0
"""Read a file front to back from a stream: a pipe, a socket, a download.

Layers come in the order of the file and are read as they are asked for. What comes after them,
index and footer, must then say what the records said, so a stream that was iterated to its end is a
file that was checked as a whole, its CRC included. A declared size never takes memory by itself:
buffers grow as bytes arrive.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wcodec.checksum import crc32, crc32_combine
from wcodec.container import frame
from wcodec.container.blocks import (
    Blocks,
    allocate,
    as_headers,
    size_of_block,
    unpack_directory,
)
from wcodec.container.constants import (
    BLOCK_HEADER_BYTES,
    FOOTER_BYTES,
    HEAD_FIXED_BYTES,
    HEADER_BYTES,
    INDEX_HEAD_BYTES,
    INDEX_MAGIC,
    KIND_REFERENCE,
    MAJOR,
    MINOR,
    READ_SLACK_BYTES,
    RECORD_ALIGNMENT,
    align,
)
from wcodec.container.head import LayerHead, check_n_blocks, first_block_offset, head_size
from wcodec.container.index import (
    IndexEntry,
    IndexHead,
    entry_of,
    pack_body,
    parse_index,
    target_problem,
)
from wcodec.container.metadata import Metadata, check_stored_size, unpack_stored
from wcodec.container.records import (
    BLOCK_HEADER_STRUCT,
    Footer,
    Header,
    check_crc,
    check_zero,
)
from wcodec.errors import CorruptError, TruncatedError
from wcodec.limits import ReadLimits

# What is taken at once for bytes that have not arrived yet.
PIECE_BYTES = 16 << 20


class SequentialReader:
    """Reads one wcodec file from `stream`, any object with read(n); short reads are fine.

    `metadata` is there at once. Iterating gives the layers; one that is not finished when the next
    is asked for is skipped, its CRC checked all the same. When the iteration ends, the records,
    index, footer, CRC of the file and the end of the stream have been checked. Nothing is read
    ahead. Not for use by several threads at once.

    Raises TruncatedError, CorruptError, UnsupportedError and LimitError, and what stream.read
    raises.
    """

    metadata: Metadata
    format_version = f"{MAJOR}.{MINOR}"

    def __init__(self, stream: Any, *, limits: ReadLimits | None = None) -> None:
        self._limits = limits or ReadLimits()
        self._input = _Stream(stream)
        header = Header.unpack(self._input.read_up_to(HEADER_BYTES))
        check_stored_size(header, self._limits)
        self._first_record_offset = header.first_record_offset
        before = self._input.read(header.first_record_offset - HEADER_BYTES)
        self.metadata = unpack_stored(before, header)
        self._file_crc = self._input.take_crc()
        self._layers: dict[str, IndexEntry] = {}
        self._decoded_bytes = 0
        self._current: SequentialLayer | None = None
        self._ended = False

    @property
    def file_bytes(self) -> int:
        """Bytes read so far."""
        return self._input.offset

    def __iter__(self) -> Iterator[SequentialLayer]:
        return self

    def __next__(self) -> SequentialLayer:
        if self._ended:
            raise StopIteration
        if self._current is not None:
            self._current.skip()
        magic = self._input.read(len(INDEX_MAGIC))
        if magic == INDEX_MAGIC:
            self._check_end()
            self._ended = True
            raise StopIteration
        self._current = self._begin_layer(magic)
        return self._current

    def _begin_layer(self, magic: bytes) -> SequentialLayer:
        offset = self._input.offset - len(magic)
        where = f"record at offset {offset}"
        fixed = magic + self._input.read(HEAD_FIXED_BYTES - len(magic))
        size = head_size(fixed, where, self._limits)
        head = LayerHead.unpack(
            fixed + self._input.read(size - HEAD_FIXED_BYTES), where, self._limits
        )
        check_zero(
            self._input.read(first_block_offset(size) - size), f"layer {head.name!r:.200}: head"
        )
        self._check_new(head)
        return SequentialLayer(self, self._input, head, offset, self._limits)

    def _check_new(self, head: LayerHead) -> None:
        problem = target_problem(head, self._layers)
        if head.kind == KIND_REFERENCE and not self.metadata.duplicates:
            problem = "is a reference, yet the metadata allows none"
        if head.name in self._layers:
            problem = "an earlier layer has the same name"
        if problem is not None:
            raise CorruptError(f"layer {head.name!r:.200}: {problem}")
        self._limits.check("n_layers", len(self._layers) + 1, "file: number of layers")
        if head.kind == KIND_REFERENCE:
            self._limits.check_total(self._decoded_bytes + head.data_bytes, self._input.offset)

    def _end_layer(self, entry: IndexEntry) -> None:
        """Take over a layer whose record was read to its end."""
        self._layers[entry.name] = entry
        self._file_crc = crc32_combine(self._file_crc, entry.record_crc, entry.record_bytes)
        self._decoded_bytes += entry.data_bytes
        self._limits.check_total(self._decoded_bytes, self._input.offset)
        self._current = None

    def _check_end(self) -> None:
        index_offset = self._input.offset - len(INDEX_MAGIC)
        self._check_index(index_offset)
        index_bytes = self._input.offset - index_offset
        index_crc = self._input.take_crc()
        file_crc = crc32_combine(self._file_crc, index_crc, index_bytes)
        footer = Footer.unpack(self._input.read(FOOTER_BYTES))
        for what, found, expected in (
            ("index_offset", footer.index_offset, index_offset),
            ("index_bytes", footer.index_bytes, index_bytes),
        ):
            if found != expected:
                raise CorruptError(f"footer: {what} is {found}, expected {expected}")
        check_crc("index", index_crc, footer.index_crc)
        check_crc("file", file_crc, footer.file_crc)
        if self._input.read_up_to(1):
            raise CorruptError(
                f"file: bytes after the footer, which ends at {self._input.offset - 1}"
            )

    def _check_index(self, index_offset: int) -> None:
        """Read the index; it must say what the records said."""
        expected = pack_body(self._layers.values())
        data = INDEX_MAGIC + self._input.read(INDEX_HEAD_BYTES - len(INDEX_MAGIC))
        head = IndexHead.unpack(data, self._limits)
        for what, found, size in (
            ("n_layers", head.n_layers, len(self._layers)),
            ("body_bytes", head.body_bytes, len(expected)),
        ):
            if found != size:
                raise CorruptError(f"index: {what} is {found}, the records make it {size}")
        stored = self._input.read(head.stored_bytes)
        if frame.load(stored, head.body_bytes, head.is_zstd, "index") == expected:
            return
        found_layers = parse_index(
            data + stored,
            first_record_offset=self._first_record_offset,
            index_offset=index_offset,
            references=self.metadata.duplicates,
            limits=self._limits,
        )
        for found_layer, layer in zip(found_layers.values(), self._layers.values(), strict=True):
            if found_layer != layer:
                raise CorruptError(f"index: says {found_layer}, the record is {layer}")


class SequentialLayer:
    """The layer of a SequentialReader that is being read: `head`, then its blocks in order, then
    finish().
    """

    def __init__(
        self,
        reader: SequentialReader,
        stream: _Stream,
        head: LayerHead,
        offset: int,
        limits: ReadLimits,
    ) -> None:
        self.head = head
        self._reader = reader
        self._input = stream
        self._offset = offset
        self._limits = limits
        self._headers = bytearray()  # of the blocks read
        self._n_blocks = 0
        self._finished = False

    def take(self, count: int, _: object = None) -> Blocks:
        """Read the next `count` blocks, into memory of their own.

        Raises CorruptError for blocks that the layer has not; the CRC of a block and its padding
        are for its decoder to check. ValueError after finish().
        """
        self._check_open()
        first = self._n_blocks
        content = _Growing(self._input)
        for _ in range(count):
            header = bytes(content.read(BLOCK_HEADER_BYTES))
            block_bytes = self._size_of_block(header)
            if block_bytes is None:
                raise CorruptError(
                    f"layer {self.head.name!r:.200}: has {self._n_blocks} blocks, "
                    f"expected at least {first + count}"
                )
            content.expect(count * block_bytes)
            content.read(block_bytes - BLOCK_HEADER_BYTES)
            self._add(header)
        return content.blocks(self._headers[first * BLOCK_HEADER_BYTES :])

    def finish(self) -> None:
        """Read the rest of the record after its last block, and check it.

        Raises CorruptError if there are blocks left, and if the directory does not say what the
        blocks said.
        """
        self._check_open()
        directory_offset = 0
        if self.head.kind != KIND_REFERENCE:
            directory_offset = self._input.offset - self._offset
            self._check_directory(self._input.read(BLOCK_HEADER_BYTES))
        self._end(directory_offset)

    def skip(self) -> None:
        """Read to the end of the record, if that was not done yet."""
        if self._finished:
            return
        directory_offset = 0
        if self.head.kind != KIND_REFERENCE:
            header = self._input.read(BLOCK_HEADER_BYTES)
            while (block_bytes := self._size_of_block(header)) is not None:
                self._input.skip(block_bytes - BLOCK_HEADER_BYTES)
                self._add(header)
                header = self._input.read(BLOCK_HEADER_BYTES)
            directory_offset = self._input.offset - BLOCK_HEADER_BYTES - self._offset
            self._check_directory(header)
        self._end(directory_offset)

    def _check_open(self) -> None:
        if self._finished:
            raise ValueError(f"layer {self.head.name!r:.200} was read to its end")

    def _size_of_block(self, header: bytes) -> int | None:
        if self.head.kind == KIND_REFERENCE:
            raise ValueError(f"layer {self.head.name!r:.200} is a reference and has no blocks")
        return size_of_block(header, self._n_blocks, self.head.name, self._limits)

    def _add(self, header: bytes) -> None:
        self._headers += header
        self._n_blocks += 1

    def _check_directory(self, header: bytes) -> None:
        """Read the directory that begins with these bytes; it must say what the blocks said."""
        name = self.head.name
        if self._size_of_block(header) is not None:
            raise CorruptError(f"layer {name!r:.200}: has more blocks than {self._n_blocks}")
        check_n_blocks(self.head, self._n_blocks)
        size = BLOCK_HEADER_STRUCT.unpack(header)[-1]
        if size != len(self._headers):
            raise CorruptError(
                f"directory of {name!r:.200}: payload is {size} bytes, "
                f"{self._n_blocks} blocks make it {len(self._headers)}"
            )
        found = unpack_directory(header + self._input.read(size), name)
        if found.tobytes() != self._headers:
            raise CorruptError(f"directory of {name!r:.200}: does not say what the blocks say")

    def _end(self, directory_offset: int) -> None:
        used = self._input.offset - self._offset
        padding = self._input.read(align(used, RECORD_ALIGNMENT) - used)
        check_zero(padding, f"layer {self.head.name!r:.200}: end of the record")
        entry = entry_of(
            self.head,
            record_offset=self._offset,
            record_bytes=used + len(padding),
            directory_offset=directory_offset,
            record_crc=self._input.take_crc(),
            n_blocks=self._n_blocks,
        )
        self._finished = True
        self._reader._end_layer(entry)


class _Stream:
    """Reads a stream, counts its bytes and computes their CRC."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._readinto = getattr(stream, "readinto", None)
        self._crc = 0
        self.offset = 0

    def take_crc(self) -> int:
        """Return the CRC of what was read since the last call."""
        crc, self._crc = self._crc, 0
        return crc

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes; TruncatedError if the stream ends before."""
        data = self.read_up_to(size)
        if len(data) < size:
            self._raise_short(size - len(data))
        return data

    def read_up_to(self, size: int) -> bytes:
        """Return `size` bytes, or all that are left if those are fewer."""
        if size <= PIECE_BYTES:
            out = bytearray(size)
            return bytes(out[: self._fill(memoryview(out))])
        parts = []
        while size:
            parts.append(self.read_up_to(min(size, PIECE_BYTES)))
            size -= len(parts[-1])
            if len(parts[-1]) < PIECE_BYTES:
                break
        return b"".join(parts)

    def read_into(self, out: memoryview) -> None:
        """Fill `out`; TruncatedError if the stream ends before."""
        n = self._fill(out)
        if n < len(out):
            self._raise_short(len(out) - n)

    def skip(self, size: int) -> None:
        """Read `size` bytes and forget them."""
        scratch = memoryview(bytearray(min(size, 1 << 20)))
        while size:
            piece = scratch[: min(size, len(scratch))]
            self.read_into(piece)
            size -= len(piece)

    def _fill(self, out: memoryview) -> int:
        done = 0
        while done < len(out):
            n = self._read_some(out[done:])
            if n == 0:
                break
            done += n
        self._crc = crc32(out[:done], self._crc)
        self.offset += done
        return done

    def _read_some(self, out: memoryview) -> int:
        if self._readinto is not None:
            n = self._readinto(out)
        else:
            data = self._stream.read(len(out))
            n = None if data is None else len(data)
            if n is not None and n <= len(out):
                out[:n] = data
        if n is None:
            raise BlockingIOError("the stream is non-blocking and has no bytes yet")
        if not 0 <= n <= len(out):
            raise OSError(f"read({len(out)}) of the stream returned {n} bytes")
        return int(n)

    def _raise_short(self, missing: int) -> None:
        raise TruncatedError(
            f"file: the stream ends at {self.offset} bytes, at least {missing} more are needed"
        )


class _Growing:
    """An array that grows as a stream fills it."""

    def __init__(self, stream: _Stream) -> None:
        self._input = stream
        self._data = allocate(0)
        self._used = 0
        self._expected = 0

    def expect(self, size: int) -> None:
        """Say about how many bytes there will be in all; room for a piece of them is made."""
        self._expected = size
        if len(self._data) < min(size, PIECE_BYTES):
            self._grow(min(size, PIECE_BYTES))

    def read(self, size: int) -> memoryview:
        """Read `size` more bytes and return them; TruncatedError."""
        begin = self._used
        while size:
            n = min(size, PIECE_BYTES)
            if self._used + n + READ_SLACK_BYTES > len(self._data):
                self._grow(n)
            self._input.read_into(self._data.data[self._used : self._used + n])
            self._used += n
            size -= n
        return self._data.data[begin : self._used]

    def blocks(self, headers: bytearray) -> Blocks:
        """Return what was read, as blocks with these headers."""
        self._data[self._used : self._used + READ_SLACK_BYTES] = 0
        return Blocks(as_headers(bytes(headers)), self._data, self._used)

    def _grow(self, size: int) -> None:
        # At most four times what has arrived, or a piece more than that.
        likely = max(2 * self._used, min(4 * self._used, self._expected))
        data = allocate(max(likely, self._used + size))
        data[: self._used] = self._data[: self._used]
        self._data = data
