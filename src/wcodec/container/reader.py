# SPDX-License-Identifier: Apache-2.0
"""Read a file with random access: the footer leads to the index, the index to the records.

Opening takes one request for both ends of the file, and a second one only if metadata or index are
larger than that. All of header, metadata and index is validated before any record is used; a
layer's head and directory when it is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType, TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wcodec.checksum import crc32, crc32_combine
from wcodec.container.blocks import Bytes
from wcodec.container.constants import (
    FOOTER_BYTES,
    FOOTER_MAGIC,
    HEADER_BYTES,
    MAJOR,
    MINOR,
    READ_SLACK_BYTES,
    RECORD_ALIGNMENT,
)
from wcodec.container.index import IndexEntry, parse_index
from wcodec.container.layer import Layer, check_blocks
from wcodec.container.metadata import Metadata, check_stored_size, unpack_stored
from wcodec.container.records import Footer, Header, check_crc
from wcodec.container.scan import Skipped, missing_bytes, scan_records
from wcodec.container.source import Input, Source, open_input
from wcodec.errors import CorruptError, FormatError, TruncatedError, named
from wcodec.limits import ReadLimits

END_BYTES = 64 << 10  # of each end of the file, read at once: metadata and index of most models
CHECK_BYTES = 8 << 20  # a piece of check_file()
# A file whose footer contradicts itself is walked to say whether it is cut off or damaged; after so
# many reads the answer is damaged.
MAX_WALK_READS = 10_000


class Reader:
    """Reads one wcodec file: a path, a binary seekable file object, or an object with size() and
    read_ranges().

    `layers` maps names to index entries in the order of the file, `metadata` is the file's own,
    `file_bytes` its size. With `scan`, index and footer are ignored and the records are found by
    walking and searching: `layers` has those that are structurally whole, `skipped` says what else
    there is, and `metadata` raises if it is damaged. Use it as a context manager, or close() it; a
    file object that was passed in stays open.

    Raises TruncatedError, CorruptError, UnsupportedError and LimitError; ValueError and TypeError
    for what cannot be a source; OSError. Methods may be called from several threads at once.

    >>> import io
    >>> from wcodec.container import Metadata, Writer
    >>> file = io.BytesIO()
    >>> Writer(file, metadata=Metadata("0.1.0", model_name="none")).close()
    >>> Reader(file).metadata.model_name, len(Reader(file).layers)
    ('none', 0)
    """

    file_bytes: int
    layers: Mapping[str, IndexEntry]
    skipped: tuple[Skipped, ...]
    format_version = f"{MAJOR}.{MINOR}"

    def __init__(
        self, source: Source | Input, *, limits: ReadLimits | None = None, scan: bool = False
    ) -> None:
        self._limits = limits or ReadLimits()
        self._source = open_input(source)
        self._footer: Footer | None = None
        self._metadata: Metadata | FormatError
        self.file_bytes = self._source.size
        self.skipped = ()
        try:
            layers = self._open_scan() if scan else self._open()
            total = sum(entry.data_bytes for entry in layers.values())
            self._limits.check_total(total, self.file_bytes)
        except FormatError as error:
            self.close()
            raise named(error, source) from None
        except BaseException:
            self.close()
            raise
        self.layers = MappingProxyType(layers)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file if a path was given."""
        self._source.close()

    @property
    def metadata(self) -> Metadata:
        """What the file says about itself; only a scan can open a file where this raises
        FormatError.
        """
        if isinstance(self._metadata, FormatError):
            raise self._metadata
        return self._metadata

    def resolve(self, name: str) -> IndexEntry:
        """Return the entry that has the bytes of layer `name`: its own, or that of the layer it
        refers to.
        """
        entry = self.layers[name]
        return self.layers[entry.target] if entry.is_reference else entry

    def open_layer(self, name: str) -> Layer:
        """Read and check head and directory of a layer, in one request; KeyError if there is no
        such layer.

        A reference opens as a layer without blocks; resolve() says where its bytes are.
        """
        layer = Layer(self._source, self.layers[name], self._limits)
        check_blocks([layer], self._limits)
        return layer

    def read_records(self, entries: Sequence[IndexEntry], memory: Bytes) -> None:
        """Read the records of layers that lie back to back into `memory`, in one read."""
        start, end = entries[0].record_offset, entries[-1].record_end
        if any(a.record_end != b.record_offset for a, b in pairwise(entries)):
            raise ValueError("the records do not lie back to back")
        self._source.read_into(start, memory.data[: end - start])
        self._source.will_need(end, end - start)

    def open_layers(self, entries: Sequence[IndexEntry], memory: Bytes) -> list[Layer]:
        """Open the layers whose records read_records() has read into `memory`, which has at least
        READ_SLACK_BYTES more.

        Takes a fraction of the time of opening them one by one. They are good as long as `memory`
        is left alone.
        """
        start = entries[0].record_offset
        layers = []
        for entry in entries:
            at = entry.record_offset - start
            record = memory[at : at + entry.record_bytes + READ_SLACK_BYTES]
            layers.append(Layer(self._source, entry, self._limits, record))
        check_blocks(layers, self._limits)
        return layers

    def read_record(self, name: str) -> Iterator[NDArray[np.uint8]]:
        """Yield the bytes of a layer's record, head and padding included, in pieces of at most 8
        MiB, each valid until the next.

        Raises CorruptError after the last piece if they are not what the index says; KeyError.
        """
        entry = self.layers[name]
        buffer = np.empty(min(CHECK_BYTES, entry.record_bytes), dtype=np.uint8)
        crc = 0
        for start in range(0, entry.record_bytes, CHECK_BYTES):
            piece = buffer[: min(CHECK_BYTES, entry.record_bytes - start)]
            self._source.read_into(entry.record_offset + start, piece.data)
            crc = crc32(piece, crc)
            yield piece
        check_crc(f"layer {name!r:.200}: record", crc, entry.record_crc)

    def check_file(self) -> None:
        """Check the CRC of every record and of the file, reading it once from front to back.

        Holds 8 MiB at a time. Raises CorruptError that names the first layer that is damaged.
        """
        buffer, buffered = bytearray(CHECK_BYTES), memoryview(b"")
        file_crc = position = 0
        for region in self._regions():
            found = 0
            left = region.size
            while left:
                if not len(buffered):
                    size = min(CHECK_BYTES, self.file_bytes - position)
                    buffered = memoryview(buffer)[:size]
                    self._source.read_into(position, buffered)
                    position += size
                n = min(left, len(buffered))
                found = crc32(buffered[:n], found)
                buffered = buffered[n:]
                left -= n
            if region.crc is not None:
                check_crc(region.what, found, region.crc)
            file_crc = crc32_combine(file_crc, found, region.size)
        if self._footer is not None:
            check_crc("file", file_crc, self._footer.file_crc)

    def _open(self) -> dict[str, IndexEntry]:
        ends = _Ends(self._source)
        header = Header.unpack(ends.read(0, min(HEADER_BYTES, self.file_bytes)))
        footer = self._footer = _read_footer(ends, header, self._limits)
        self._check_sizes(header, footer)
        metadata_end = header.first_record_offset
        before, index = ends.read_many(
            [(HEADER_BYTES, metadata_end - HEADER_BYTES), (footer.index_offset, footer.index_bytes)]
        )
        metadata = self._metadata = unpack_stored(before, header)
        check_crc("index", crc32(index), footer.index_crc)
        return parse_index(
            index,
            first_record_offset=metadata_end,
            index_offset=footer.index_offset,
            references=metadata.duplicates,
            limits=self._limits,
        )

    def _check_sizes(self, header: Header, footer: Footer) -> None:
        """Check the sizes that header and footer declare against the file and the limits, before
        anything is read.
        """
        if header.first_record_offset > footer.index_offset:
            raise CorruptError(
                f"header: metadata of {header.metadata_stored_bytes} bytes ends behind "
                f"{footer.index_offset}, where the index begins"
            )
        check_stored_size(header, self._limits)
        self._limits.check("index_bytes", footer.index_bytes, "index: size")

    def _open_scan(self) -> dict[str, IndexEntry]:
        first_record_offset = RECORD_ALIGNMENT
        try:
            header = Header.unpack(self._source.read(0, min(HEADER_BYTES, self.file_bytes)))
            check_stored_size(header, self._limits)
            if header.first_record_offset > self.file_bytes:
                raise TruncatedError(f"file: ends at {self.file_bytes} bytes, in the metadata")
            size = header.first_record_offset - HEADER_BYTES
            self._metadata = unpack_stored(self._source.read(HEADER_BYTES, size), header)
            first_record_offset = header.first_record_offset
        except FormatError as error:
            self._metadata = error
        layers, skipped = scan_records(self._source, first_record_offset, self._limits)
        self.skipped = tuple(skipped)
        return layers

    def _regions(self) -> Iterator[_Region]:
        """Yield the parts of the file before the footer, in order and without a gap."""
        offset = 0
        for entry in self.layers.values():
            if entry.record_offset > offset:
                yield _Region(entry.record_offset - offset, None, "file")
            what = f"layer {entry.name!r:.200}: record"
            yield _Region(entry.record_bytes, entry.record_crc, what)
            offset = entry.record_end
        if self._footer is not None:
            if self._footer.index_offset > offset:
                yield _Region(self._footer.index_offset - offset, None, "file")
            yield _Region(self._footer.index_bytes, self._footer.index_crc, "index")


class _Region(NamedTuple):
    """A part of a file: its size, and its CRC if that is known."""

    size: int
    crc: int | None
    what: str


class _Ends:
    """Both ends of a file, read in one request; ranges outside them are read from the source."""

    def __init__(self, source: Input) -> None:
        self.source = source
        size = source.size
        if size <= 2 * END_BYTES:
            places = [(0, size)]
        else:
            places = [(0, END_BYTES), (size - END_BYTES, END_BYTES)]
        parts = source.read_many(places) if size else [b""]
        self._parts = [(place[0], part) for place, part in zip(places, parts, strict=True)]
        self.tail_offset, self.tail = self._parts[-1]

    def read(self, offset: int, size: int) -> bytes:
        return self.read_many([(offset, size)])[0]

    def read_many(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        found = [self._find(offset, size) for offset, size in ranges]
        missing = [place for place, data in zip(ranges, found, strict=True) if data is None]
        rest = iter(self.source.read_many(missing) if missing else ())
        return [next(rest) if data is None else data for data in found]

    def _find(self, offset: int, size: int) -> bytes | None:
        for begin, part in self._parts:
            if begin <= offset and offset + size <= begin + len(part):
                return part[offset - begin : offset - begin + size]
        return None


def _read_footer(ends: _Ends, header: Header, limits: ReadLimits) -> Footer:
    """Return the footer, or raise TruncatedError or CorruptError, whichever is the case."""
    if ends.source.size < HEADER_BYTES + FOOTER_BYTES:
        raise TruncatedError(f"file: {ends.source.size} bytes, too short for header and footer")
    data = ends.tail[-FOOTER_BYTES:]
    try:
        footer = Footer.unpack(data)
        _check_footer_place(footer, ends.source.size)
    except CorruptError as error:
        _raise_truncated(ends, header, limits, data)
        raise error
    return footer


def _check_footer_place(footer: Footer, end: int) -> None:
    index_end = footer.index_offset + footer.index_bytes
    if index_end + FOOTER_BYTES != end:
        raise CorruptError(
            f"footer: says that it begins at offset {index_end}, it does at {end - FOOTER_BYTES}"
        )


def _raise_truncated(ends: _Ends, header: Header, limits: ReadLimits, data: bytes) -> None:
    """Raise what is wrong with a file whose last bytes `data` are no footer of it, unless they are
    a damaged one.
    """
    after = _bytes_after_footer(ends)
    if after:
        raise CorruptError(f"file: {after} bytes after the footer")
    looks_like_one = data.endswith(FOOTER_MAGIC) or _has_footer_crc(data)
    if not looks_like_one:
        raise TruncatedError(
            f"file: no footer at its end, at {ends.source.size} bytes; it is cut off"
        )
    # The last bytes are some kind of footer, perhaps that of a wcodec file in the data of a layer.
    if missing_bytes(ends.source, header.first_record_offset, limits, MAX_WALK_READS):
        raise TruncatedError(f"file: ends at {ends.source.size} bytes, in the middle of a record")


def _has_footer_crc(data: bytes) -> bool:
    try:
        Footer.unpack(data[: -len(FOOTER_MAGIC)] + FOOTER_MAGIC)
    except CorruptError:
        return False
    return True


def _bytes_after_footer(ends: _Ends) -> int:
    """Return how many bytes follow a footer that fits its place in the tail of the file; 0 if there
    is none.
    """
    end = ends.tail.rfind(FOOTER_MAGIC, 0, -1) + len(FOOTER_MAGIC)
    while end >= FOOTER_BYTES:
        try:
            footer = Footer.unpack(ends.tail[end - FOOTER_BYTES : end])
            _check_footer_place(footer, ends.tail_offset + end)
            return len(ends.tail) - end
        except CorruptError:
            end = ends.tail.rfind(FOOTER_MAGIC, 0, end - 1) + len(FOOTER_MAGIC)
    return 0
