# SPDX-License-Identifier: Apache-2.0
"""The fuzz targets of what is written in Python, by atheris: readers.py TARGET [OPTIONS OF
LIBFUZZER] [CORPUS]. TARGET is one of

container    a file by random access, from a pipe and by a scan: refused with a FormatError, or the
             same layers, which index and metadata packed again also say
safetensors  a safetensors file: refused, or read as safetensors reads it, from a pipe as well

Inputs are files; in those of a container every checksum is 0, for here that is what all data have.
"""

import sys
from io import BytesIO
from pathlib import Path

import atheris
from safetensors import SafetensorError, deserialize

import wcodec._core as core

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
# What finds the modules of an editable install stands in the way of atheris.
sys.meta_path = [finder for finder in sys.meta_path if "Redirecting" not in type(finder).__name__]

with atheris.instrument_imports(include=["wcodec"]):
    from support.container_reading import Pipe, read_layer, read_random, read_sequential

    from wcodec import FormatError, LimitError
    from wcodec.container import (
        BytesInput,
        Reader,
        SequentialReader,
        layer,
        reader,
        scan,
        sequential,
    )
    from wcodec.container.blocks import allocate
    from wcodec.container.index import pack_body
    from wcodec.container.metadata import Metadata
    from wcodec.limits import ReadLimits
    from wcodec.overlap import Buffers
    from wcodec.safetensors_file import LENGTH_BYTES, header_bytes, parse_header
    from wcodec.safetensors_stream import SafetensorsStream

MIB = 1 << 20
LIMITS = ReadLimits(
    metadata_bytes=MIB, index_bytes=MIB, n_blocks=1 << 16, block_bytes=MIB, name_bytes=1 << 10
)
# So that small files reach what is for large ones.
layer.SMALL_RECORD_BYTES = reader.END_BYTES = 300
reader.CHECK_BYTES = sequential.PIECE_BYTES = scan._FIRST_SEARCH_BYTES = scan._SEARCH_BYTES = 128
# Reasons for which safetensors' own reader does not refuse a file.
STRICTER = ("occurs twice", "starts with", "expected an object", "expected text")


def container(data: bytes) -> None:
    found = []
    for read in (by_random_access, from_a_pipe):
        try:
            found.append(read(data))
        except LimitError:
            return  # the sum of the layers is looked at in other places
        except FormatError:
            found.append(None)
    assert found[0] == found[1]
    try:
        with Reader(BytesIO(data), limits=LIMITS, scan=True) as reader:
            scanned = list(reader.layers)
    except FormatError:
        scanned = None
    if found[0] is not None:
        assert scanned == [head.name for head, _ in found[0][1]]


def by_random_access(data: bytes):
    content = read_random(BytesIO(data), limits=LIMITS)
    metadata = content[0]
    assert Metadata.unpack(metadata.pack()) == metadata
    with Reader(BytesInput(data), limits=LIMITS) as reader:
        entries = list(reader.layers.values())
        for entry in entries:
            assert reader.open_layer(entry.name).head.pack() in data
            record = data[entry.record_offset : entry.record_end]
            assert b"".join(map(bytes, reader.read_record(entry.name))) == record
        memory = allocate(len(data))
        if entries:
            reader.read_records(entries, memory)
        together = reader.open_layers(entries, memory) if entries else []
        assert [(layer.head, read_layer(layer)) for layer in together] == content[1]
        assert pack_body(entries) in data or b"\x28\xb5\x2f\xfd" in data
    for source in (BytesInput(data), BytesIO(data)):
        with Reader(source, limits=LIMITS) as reader:
            into_memory(reader, content)
    return content


def into_memory(reader, content) -> None:
    """Read blocks into memory of the caller's, all at once and one after the other."""
    for head, expected in content[1]:
        layer = reader.open_layer(head.name)
        n = len(layer.headers)
        layer.check_count(n)
        found = layer.read_blocks(0, n, out=allocate(len(expected)))
        assert found.data[: found.n_bytes].tobytes() == expected
        buffers = Buffers(1, allocate)
        parts = [layer.take(1, buffers) for _ in range(n)]
        assert sum(part.n_bytes for part in parts) == len(expected)
        layer.finish()


def from_a_pipe(data: bytes):
    skipping = SequentialReader(Pipe(data, 100), limits=LIMITS)
    for _ in skipping:
        pass
    counts = {name: entry.n_blocks for name, entry in skipping._layers.items()}
    return read_sequential(Pipe(data), counts, limits=LIMITS)


def safetensors(data: bytes) -> None:
    try:
        expected = dict(deserialize(data))
    except SafetensorError as error:
        expected = None if "unknown variant" not in str(error) else {}  # a dtype: bytes for us
    size = int.from_bytes(data[:LENGTH_BYTES], "little")
    header, part = data[LENGTH_BYTES:][:size], data[LENGTH_BYTES:][size:]
    try:
        header_bytes(data[:LENGTH_BYTES])
        parsed = parse_header(header, len(part))
    except FormatError as error:
        if expected and not any(reason in str(error) for reason in STRICTER):
            raise AssertionError("safetensors takes it") from error
        return
    if size == len(header):
        assert expected is not None
        stream = SafetensorsStream(Pipe(data, 100))
        assert (stream.tensors, stream.metadata) == (parsed.tensors, parsed.metadata)
    for tensor in parsed.tensors if expected else ():
        info = expected[tensor.name]
        assert (tensor.dtype, list(tensor.shape)) == (info["dtype"], info["shape"])
        assert part[tensor.start : tensor.end] == bytes(info["data"])


def without_checksums() -> None:
    core.crc32 = lambda data, start=0: 0
    core.crc32_combine = lambda first, second, second_bytes: 0


def main() -> None:
    target = {"container": container, "safetensors": safetensors}[sys.argv[1]]
    without_checksums()
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
