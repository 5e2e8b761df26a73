# SPDX-License-Identifier: Apache-2.0
"""Every prefix of a file and every changed byte gives a named error, and never wrong data.

The file is small and has all codings, a reference, row groups, a scalar and an empty layer. `make
test` takes one place of seven, others by random access than from a pipe; test_exhaustive.py takes
smaller files.
"""

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.arrays import gaussian
from support.pipes import Pipe

import wcodec
from wcodec.container import Reader


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> tuple[bytes, dict]:
    directory = tmp_path_factory.mktemp("corruption")
    mixed = gaussian("F32", 64 * 40).reshape(64, 40)
    mixed[::2] = mixed[::2].astype(np.float16)
    arrays = {
        "rans16": gaussian("BF16", 900),
        "groups": mixed,
        "lz": np.tile(np.arange(20, dtype=np.int32), 10),
        "constant": np.ones(500, np.float16),
        "raw": np.frombuffer(b"some bytes", np.uint8),
        "scalar": np.array(3.5),
        "empty": np.zeros((2, 0), np.int8),
    }
    arrays["tied"] = arrays["rans16"].copy()
    save_file(
        {
            name: array.view(np.uint16) if name in ("rans16", "tied") else array
            for name, array in arrays.items()
        },
        directory / "m.safetensors",
    )
    # safetensors.numpy knows no bfloat16: put the dtype's name into the header.
    data = (directory / "m.safetensors").read_bytes().replace(b'"U16"', b'"BF16"')
    size = int.from_bytes(data[:8], "little") + data.count(b'"BF16"')
    header, rest = data[8 : 8 + size], data[8 + size :]
    while len(header) % 8:
        header += b" "
    (directory / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + rest)
    statistics = wcodec.encode_checkpoint(directory / "m.safetensors", directory / "m.wcodec")
    codings = {layer["name"]: layer["coding"] for layer in statistics["layers"]}
    assert codings["groups"] == codings["rans16"] or codings["tied"] == "rans16"
    assert set(codings.values()) == {"rans16", "lz", "constant", "raw", "reference"}
    with Reader(directory / "m.wcodec") as reader:
        assert reader.open_layer("groups").head.row_groups
    data = (directory / "m.wcodec").read_bytes()
    return data, wcodec.decode_checkpoint(directory / "m.wcodec")


class Memory:
    """A file in memory, for Reader."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def size(self) -> int:
        return len(self.data)

    def read_ranges(self, ranges):
        return [self.data[offset : offset + size] for offset, size in ranges]


def decode_by_index(data: bytes) -> dict:
    import io

    return wcodec.decode_checkpoint(io.BytesIO(data))


def decode_by_pipe(data: bytes) -> dict:
    return wcodec.decode_checkpoint(Pipe(data))


PLACES = pytest.mark.parametrize(
    ("decode", "start", "stride"),
    [
        (decode_by_index, 0, 7),
        (decode_by_pipe, 3, 7),
        pytest.param(decode_by_index, 0, 1, marks=pytest.mark.slow),
        pytest.param(decode_by_pipe, 0, 1, marks=pytest.mark.slow),
    ],
)


@PLACES
def test_every_prefix_is_truncated(encoded, decode, start, stride):
    data, _ = encoded
    for n in range(start, len(data), stride):
        with pytest.raises(wcodec.TruncatedError):
            decode(data[:n])


@PLACES
def test_every_changed_byte_is_found(encoded, decode, start, stride):
    data, _ = encoded
    missed = []
    for at in range(start, len(data), stride):
        value = data[at] ^ (0xFF if at % 5 == 0 else 1 << at % 8)
        try:
            decode(data[:at] + bytes([value]) + data[at + 1 :])
        except wcodec.FormatError:
            continue
        missed.append(at)
    assert missed == []


def test_verify_finds_every_changed_byte(encoded, tmp_path):
    data, _ = encoded
    path = tmp_path / "m.wcodec"
    for at in range(5, len(data), 29):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(wcodec.FormatError):
            wcodec.verify(path)


def test_damage_names_layer_and_block_and_spares_the_others(encoded):
    data, arrays = encoded
    reader = Reader(Memory(data))
    entry = reader.layers["groups"]
    layer = reader.open_layer("groups")
    # The last byte of the payload of the layer's last block.
    at = entry.record_offset + entry.directory_offset - 1
    n_padding = -int(layer.headers["payload_bytes"][-1]) % 16
    damaged = bytearray(data)
    damaged[at - n_padding] ^= 4
    with pytest.raises(
        wcodec.CorruptError, match=rf"block {len(layer.headers) - 1} of 'groups': its CRC"
    ):
        decode_by_index(bytes(damaged))
    from wcodec.decode import as_array, decode_budget
    from wcodec.windows import decode_windows

    reader = Reader(Memory(bytes(damaged)))
    for name, array in arrays.items():
        if name != "groups":
            layer = reader.open_layer(reader.resolve(name).name)
            out = np.empty(layer.head.data_bytes, np.uint8)
            for _ in decode_windows(layer, decode_budget(1), out):
                pass
            assert as_array(out, layer.head.dtype, layer.head.shape).tobytes() == array.tobytes()


def test_other_versions_are_named(encoded):
    data, _ = encoded
    for at, value in ((4, 1), (5, 1), (5, 10)):
        other = data[:at] + bytes([value]) + data[at + 1 :]
        for decode in (decode_by_index, decode_by_pipe):
            with pytest.raises(wcodec.UnsupportedError, match="version"):
                decode(other)


def test_what_is_no_wcodec_file():
    for data in (b"x" * 200, b"PK\x03\x04" + bytes(100), bytes(1000)):
        for decode in (decode_by_index, decode_by_pipe):
            with pytest.raises(wcodec.FormatError, match=r"not a wcodec file|magic"):
                decode(data)
