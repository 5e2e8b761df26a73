# SPDX-License-Identifier: Apache-2.0
"""Sources that are read once: safetensors files through a pipe, and arrays one at a time."""

import gc
import gzip
import io
import json
import os
import socket
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from safetensors.numpy import save, save_file
from support.arrays import gaussian, same_bytes
from support.pipes import Pipe, Sink

import wcodec
from wcodec import CorruptError, FormatError, TruncatedError

TENSORS = {
    "a": gaussian("F32", 300_000).reshape(600, 500),
    "b": np.arange(70_000),
    "empty": np.zeros((0, 3), np.float16),
    "scalar": np.array(2.5),
    "again": gaussian("F32", 300_000).reshape(500, 600),
}


@pytest.mark.parametrize("at_once", [1 << 30, 1009])
def test_a_file_through_a_pipe(tmp_path, at_once):
    data = save(TENSORS)
    sink = Sink()
    statistics = wcodec.encode_checkpoint(Pipe(data, at_once), sink)
    assert statistics["input_bytes"] == len(data)
    restored = Sink()
    wcodec.decode_checkpoint(Pipe(bytes(sink.data)), restored)
    assert restored.data == data
    wcodec.encode_checkpoint(Pipe(data, at_once), tmp_path / "out.wcodec")
    assert (tmp_path / "out.wcodec").read_bytes() == sink.data
    (tmp_path / "a.safetensors").write_bytes(data)
    wcodec.encode_checkpoint(tmp_path / "a.safetensors", tmp_path / "b", duplicates=False)
    assert (tmp_path / "b").read_bytes() == sink.data


def test_a_tensor_of_several_windows_through_a_pipe(tmp_path):
    """Windows of whole row bands are larger or smaller than the sample that they begin with."""
    for shape in ((9_999, 2_003), (30, 700_001), (21_000_001,)):
        tensors = {"w": gaussian("F32", int(np.prod(shape))).reshape(shape)}
        save_file(tensors, tmp_path / "a")
        wcodec.encode_checkpoint(tmp_path / "a", tmp_path / "b", duplicates=False)
        with (tmp_path / "a").open("rb") as file:
            wcodec.encode_checkpoint(Pipe(file.read(), 1 << 20), tmp_path / "c")
        assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_streams_that_are_no_safetensors_file(tmp_path):
    data = save({"a": TENSORS["a"]})
    output = tmp_path / "out"
    for wrong, kind, words in (
        (b"", TruncatedError, "ends after 0 of 8 bytes"),
        (data[:50], TruncatedError, "header"),
        (data[:-1], TruncatedError, "ends at byte 1199999 of its data, which has 1200000"),
        (data + b"x", CorruptError, "goes on"),
        (b"\xff" * 100, wcodec.LimitError, "header"),
        (b"\x02" + bytes(7) + b"[]", CorruptError, "header"),
    ):
        with pytest.raises(kind, match=words):
            wcodec.encode_checkpoint(Pipe(wrong), output)
        assert not output.exists()
    with pytest.raises(ValueError, match="read again"):
        wcodec.encode_checkpoint(Pipe(data), output, duplicates=True)
    with pytest.raises(TypeError, match="int"):
        wcodec.encode_checkpoint(3, output)


def test_an_iterator_of_arrays(tmp_path):
    wcodec.encode_checkpoint(iter(TENSORS.items()), tmp_path / "out", metadata={"k": "v"})
    found = wcodec.decode_checkpoint(tmp_path / "out")
    assert list(found) == list(TENSORS)
    assert all(same_bytes(found[name], TENSORS[name]) for name in TENSORS)
    wcodec.decode_checkpoint(tmp_path / "out", tmp_path / "file")
    wcodec.encode_checkpoint(TENSORS, tmp_path / "dict", metadata={"k": "v"})
    wcodec.decode_checkpoint(tmp_path / "dict", tmp_path / "same")
    assert (tmp_path / "file").read_bytes() == (tmp_path / "same").read_bytes()


def test_iterators_that_cannot_be_encoded(tmp_path):
    w = TENSORS["b"]
    for items, kind, words in (
        ([("a", w), ("a", w)], ValueError, "already"),
        ([("__metadata__", w)], ValueError, "__metadata__"),
        ([("a", [1, 2])], TypeError, "list"),
        ([3], TypeError, "int"),
    ):
        with pytest.raises(kind, match=words):
            wcodec.encode_checkpoint(iter(items), tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_of_an_iterator_one_array_is_held_at_a_time():
    made = []

    def arrays():
        for i in range(5):
            gc.collect()
            assert all(reference() is None for reference in made)
            array = np.full(1000, i, np.float32)
            made.append(weakref.ref(array))
            yield f"layer {i}", array
            del array

    wcodec.encode_checkpoint(arrays(), io.BytesIO())


def test_pipes_on_the_command_line(tmp_path):
    data = save(TENSORS)
    (tmp_path / "a").write_bytes(data)
    encode, decode = ([sys.executable, "-m", "wcodec", name] for name in ("encode", "decode"))

    def run(args, input=b"", code=0):
        done = subprocess.run(args, input=input, capture_output=True, timeout=60)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    encoded = run([*encode, "-", "-o", "-"], data)
    assert run([*encode, "-"], data) == encoded
    assert run([*encode, tmp_path / "a", "-o", "-"]) == encoded
    assert run([*decode, "-"], encoded) == data
    assert b"5 layers" in run([*decode, "-", "-o", tmp_path / "b"], encoded)
    assert (tmp_path / "b").read_bytes() == data
    assert b"several" in run([*encode, "-", tmp_path / "a"], data, code=2)
    assert b"directory" in run([*encode, tmp_path, "-o", "-"], code=2)
    assert b"header" in run([*encode, "-"], b"nonsense", code=1)


def has_terminals() -> bool:
    try:
        for descriptor in os.openpty():
            os.close(descriptor)
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_terminals(), reason="the system has no pseudo-terminals to give")
def test_no_weights_to_a_terminal(tmp_path):
    (tmp_path / "a").write_bytes(save(TENSORS))
    code = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    encode = [sys.executable, "-m", "wcodec", "encode", tmp_path / "a", "-o", "-"]
    done = subprocess.run([sys.executable, "-c", code, *encode], capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"standard output is a terminal" in done.stdout


def test_gzip_files_and_sockets(tmp_path):
    """File objects that have a descriptor whose bytes are others, or no position at all."""
    data = save(TENSORS)
    with gzip.open(tmp_path / "source.gz", "wb") as file:
        file.write(data)
    with gzip.open(tmp_path / "source.gz") as source, gzip.open(tmp_path / "x.gz", "wb") as target:
        wcodec.encode_checkpoint(source, target)
    plain = gzip.decompress((tmp_path / "x.gz").read_bytes())
    with gzip.open(tmp_path / "x.gz") as source, (tmp_path / "restored").open("wb") as target:
        wcodec.decode_checkpoint(source, target)
    assert (tmp_path / "restored").read_bytes() == data

    a, b = socket.socketpair()
    restored = io.BytesIO()
    with a, b, a.makefile("wb", buffering=0) as target, b.makefile("rb") as source:
        reader = threading.Thread(target=wcodec.decode_checkpoint, args=(source, restored))
        reader.start()
        wcodec.encode_checkpoint(io.BytesIO(data), target)
        a.shutdown(socket.SHUT_WR)
        reader.join(60)
        assert not reader.is_alive()
    assert restored.getvalue() == data
    encoded = Sink()
    wcodec.encode_checkpoint(io.BytesIO(data), encoded)
    assert encoded.data == plain


@pytest.mark.parametrize(
    "filling",
    ['"', pytest.param(" ", marks=pytest.mark.slow), pytest.param("é", marks=pytest.mark.slow)],
)
def test_a_header_of_100_mb(tmp_path, filling):
    """The largest header that safetensors allows comes back; one byte more is refused."""
    header = '{"__metadata__":{"k":"TEXT"},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}'
    text = json.dumps(filling, ensure_ascii=False)[1:-1]
    room = 100_000_000 - len(header) + len("TEXT")
    header = header.replace("TEXT", text * (room // len(text.encode())))
    header += " " * (100_000_000 - len(header.encode()))
    source, encoded, restored = (tmp_path / name for name in ("a.safetensors", "b", "c"))
    source.write_bytes((100_000_000).to_bytes(8, "little") + header.encode() + b"abc")
    wcodec.encode_checkpoint(source, encoded)
    wcodec.decode_checkpoint(encoded, restored)
    assert restored.read_bytes() == source.read_bytes()
    source.write_bytes((100_000_001).to_bytes(8, "little") + header.encode() + b" abc")
    with pytest.raises(FormatError, match="100000001 bytes, safetensors allows 100000000"):
        wcodec.encode_checkpoint(source, encoded)
