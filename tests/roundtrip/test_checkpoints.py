# SPDX-License-Identifier: Apache-2.0
"""Whole checkpoints: byte-identical files, the same bytes whatever the threads or the target, real
files.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.arrays import gaussian, random_bits, same_bytes
from support.pipes import Pipe, Sink
from support.tools import reference_decoder

import wcodec
from wcodec.container import Reader
from wcodec.dtypes import DTYPES, bits

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "weights"
REAL_FILES = sorted(SHARED.glob("*.safetensors"))
DEMO = ROOT / "examples" / "demo_model" / "model.safetensors"


def digest(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write_safetensors(path, tensors, metadata=None, padding=0) -> None:
    """A file of (name, dtype, shape, bytes), of any dtype, in this order, with extra padding."""
    header, at = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    raw = json.dumps(header).encode() + b" " * padding
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"".join(data for *_, data in tensors))


@pytest.fixture
def model(tmp_path):
    """All dtypes, odd shapes, equal tensors, an unknown dtype, an odd header."""
    random = np.random.default_rng(3)
    tensors = []
    for dtype in DTYPES:
        for shape in ([], [0], [8], [40, 56], [2, 3, 4, 4]):
            n_bits = int(np.prod(shape, dtype=int)) * bits(dtype)
            if n_bits % 8 == 0:
                name = f"{dtype}.{len(shape)}.{shape[0] if shape else 'scalar'}"
                tensors.append((name, dtype, shape, random.bytes(n_bits // 8)))
    weights = gaussian("BF16", 300 * 700).tobytes()
    tensors.append(("big", "BF16", [300, 700], weights))
    tensors.append(("future", "F3_E1M1", [11], random.bytes(5)))
    tensors.append(("tied", "BF16", [700, 300], weights))
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors, {"format": "pt", "späße": "ja"}, padding=13)
    return path


def test_file_is_restored_byte_for_byte(model, tmp_path):
    statistics = wcodec.encode_checkpoint(model, tmp_path / "a.wcodec", metadata={"x": "y"})
    wcodec.decode_checkpoint(tmp_path / "a.wcodec", tmp_path / "b.safetensors")
    assert digest(tmp_path / "b.safetensors") == digest(model)
    codings = {layer["name"]: layer["coding"] for layer in statistics["layers"]}
    assert codings["tied"] == "reference"
    assert codings["big"] == "rans16"
    assert statistics["input_bytes"] == model.stat().st_size
    assert statistics["output_bytes"] == (tmp_path / "a.wcodec").stat().st_size
    ratio = statistics["input_bytes"] / statistics["output_bytes"]
    assert statistics["compression_ratio"] == pytest.approx(ratio)
    with Reader(tmp_path / "a.wcodec") as reader:
        assert reader.metadata.metadata == {"x": "y"}


def test_threads_and_targets_make_no_difference(model, tmp_path):
    files = []
    for threads in (1, 2, 5):
        path = tmp_path / f"{threads}.wcodec"
        wcodec.encode_checkpoint(model, path, threads=threads, duplicates=False)
        files.append(path.read_bytes())
    sink = Sink()
    wcodec.encode_checkpoint(model, sink)
    files.append(bytes(sink.data))
    code = f"import sys, wcodec; wcodec.encode_checkpoint({str(model)!r}, sys.stdout.buffer)"
    files.append(subprocess.run([sys.executable, "-c", code], capture_output=True).stdout)
    assert len(set(files)) == 1


def test_a_pipe_decodes_to_the_same(model, tmp_path):
    wcodec.encode_checkpoint(model, tmp_path / "a.wcodec", duplicates=False)
    data = (tmp_path / "a.wcodec").read_bytes()
    sink = Sink()
    statistics = wcodec.decode_checkpoint(Pipe(data), sink)
    assert bytes(sink.data) == model.read_bytes()
    assert statistics["input_bytes"] == len(data)
    from_file = wcodec.decode_checkpoint(tmp_path / "a.wcodec", threads=1)
    from_pipe = wcodec.decode_checkpoint(Pipe(data, at_once=7))
    assert from_file.keys() == from_pipe.keys()
    for name, array in from_file.items():
        assert same_bytes(array, from_pipe[name])


def test_references_from_a_pipe(model, tmp_path):
    wcodec.encode_checkpoint(model, tmp_path / "a.wcodec")
    data = (tmp_path / "a.wcodec").read_bytes()
    arrays = wcodec.decode_checkpoint(Pipe(data))
    assert arrays["tied"].tobytes() == arrays["big"].tobytes()
    with pytest.raises(wcodec.LimitError, match="'tied'"):
        wcodec.decode_checkpoint(Pipe(data), Sink())


def test_arrays_there_and_back(tmp_path):
    arrays = {
        "w": gaussian("F32", 3000).reshape(30, 100),
        "half": gaussian("F16", 4000),
        "brain": gaussian("BF16", 4000).reshape(2, 2000),
        "ids": np.arange(1000),
        "flag": np.array(True),
        "nothing": np.zeros((0, 3), np.int8),
        "fortran": np.asfortranarray(gaussian("F64", 600).reshape(20, 30)),
    }
    wcodec.encode_checkpoint(arrays, tmp_path / "a.wcodec", metadata={"format": "pt"})
    decoded = wcodec.decode_checkpoint(tmp_path / "a.wcodec")
    assert decoded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert same_bytes(decoded[name], np.ascontiguousarray(array).reshape(array.shape))
        assert decoded[name].flags.writeable


def test_arrays_decode_to_the_file_that_safetensors_writes(tmp_path):
    arrays = {
        "b": gaussian("F32", 300).reshape(30, 10),
        "a": gaussian("F16", 40),
        "ids": np.arange(7),
        "c": np.zeros(3, np.uint8),
    }
    wcodec.encode_checkpoint(arrays, tmp_path / "a.wcodec", metadata={"format": "np"})
    wcodec.decode_checkpoint(tmp_path / "a.wcodec", tmp_path / "a.safetensors")
    save_file(arrays, tmp_path / "b.safetensors", metadata={"format": "np"})
    assert digest(tmp_path / "a.safetensors") == digest(tmp_path / "b.safetensors")
    with open(tmp_path / "a.wcodec", "rb") as file, pytest.raises(wcodec.LimitError, match="index"):
        wcodec.decode_checkpoint(Pipe(file.read()), Sink())


def test_an_empty_checkpoint(tmp_path):
    save_file({}, tmp_path / "e.safetensors")
    wcodec.encode_checkpoint(tmp_path / "e.safetensors", tmp_path / "e.wcodec")
    wcodec.decode_checkpoint(tmp_path / "e.wcodec", tmp_path / "f.safetensors")
    assert digest(tmp_path / "e.safetensors") == digest(tmp_path / "f.safetensors")
    assert wcodec.decode_checkpoint(tmp_path / "e.wcodec") == {}
    assert wcodec.info(tmp_path / "e.wcodec")["n_layers"] == 0


def test_a_tensor_has_the_same_record_whatever_its_neighbours(tmp_path):
    weight = gaussian("BF16", 100_000)
    wcodec.encode_checkpoint({"w": weight}, tmp_path / "a")
    wcodec.encode_checkpoint(
        {"w": weight, "a": np.arange(9), "z": np.ones(5)}, tmp_path / "b", model_name="other"
    )
    records = []
    for path in (tmp_path / "a", tmp_path / "b"):
        with Reader(path) as reader:
            entry = reader.layers["w"]
        data = path.read_bytes()
        records.append(data[entry.record_offset : entry.record_offset + entry.record_bytes])
    assert records[0] == records[1]


def test_standalone_layer(tmp_path):
    array = gaussian("F16", 5000).reshape(50, 100)
    statistics = wcodec.encode_layer_standalone(array, tmp_path / "l.wcodec", name="q_proj")
    assert [layer["name"] for layer in statistics["layers"]] == ["q_proj"]
    assert same_bytes(wcodec.decode_layer_standalone(tmp_path / "l.wcodec"), array)
    out = np.empty_like(array)
    assert wcodec.decode_layer_standalone(tmp_path / "l.wcodec", out=out) is out
    assert same_bytes(out, array)
    wcodec.encode_checkpoint({"a": array, "b": array + 1}, tmp_path / "two.wcodec")
    with pytest.raises(ValueError, match="2 layers"):
        wcodec.decode_layer_standalone(tmp_path / "two.wcodec")
    assert wcodec.encode_array(array) != b""


def test_verify_off_gives_the_same_bytes(tmp_path):
    array = gaussian("BF16", 300_000)
    wcodec.encode_checkpoint({"w": array}, tmp_path / "a", verify=True)
    wcodec.encode_checkpoint({"w": array}, tmp_path / "b", verify=False)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_block_elements(tmp_path):
    array = gaussian("BF16", 1 << 18).reshape(512, 512)
    n_blocks = []
    for block_elements in (1 << 12, 1 << 15, 1 << 18):
        wcodec.encode_checkpoint({"w": array}, tmp_path / "a", block_elements=block_elements)
        assert same_bytes(wcodec.decode_checkpoint(tmp_path / "a")["w"], array)
        n_blocks.append(wcodec.info(tmp_path / "a")["layers"][0]["n_blocks"])
    assert n_blocks == [64, 8, 1]


def test_progress_counts_every_byte(model, tmp_path):
    seen = []
    wcodec.encode_checkpoint(
        model, tmp_path / "a", duplicates=False, progress=lambda *step: seen.append(step)
    )
    total = sum(layer["data_bytes"] for layer in wcodec.info(tmp_path / "a")["layers"])
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    seen.clear()
    wcodec.decode_checkpoint(tmp_path / "a", progress=lambda *step: seen.append(step))
    assert seen[-1] == (total, total)


def test_the_library_is_silent(model, tmp_path, capfd):
    wcodec.encode_checkpoint(model, tmp_path / "a")
    wcodec.decode_checkpoint(tmp_path / "a")
    assert capfd.readouterr() == ("", "")
    wcodec.encode_checkpoint(model, tmp_path / "a", verbose=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == len(wcodec.info(tmp_path / "a")["layers"]) + 1


def test_wrong_arguments(model, tmp_path):
    with pytest.raises(ValueError, match="level"):
        wcodec.encode_checkpoint(model, tmp_path / "a", level="least")
    with pytest.raises(ValueError, match="quant_type"):
        wcodec.encode_checkpoint(model, tmp_path / "a", quant_type="int3")
    with pytest.raises(ValueError, match="tile_size"):
        wcodec.encode_checkpoint(model, tmp_path / "a", tile_size=7)
    with pytest.raises(ValueError, match="threads"):
        wcodec.encode_checkpoint(model, tmp_path / "a", threads=0)
    with pytest.raises(ValueError, match="input itself"):
        wcodec.encode_checkpoint(model, model)
    with pytest.raises(TypeError, match="numpy array"):
        wcodec.encode_checkpoint({"a": [1, 2]}, tmp_path / "a")
    with pytest.raises(ValueError, match="__metadata__"):
        wcodec.encode_checkpoint({"__metadata__": np.zeros(3)}, tmp_path / "a")
    with pytest.raises(TypeError, match="metadata"):
        wcodec.encode_checkpoint(model, tmp_path / "a", metadata={"a": 1})
    assert not (tmp_path / "a").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    assert wcodec.LEVELS == ("default", "max")


def test_python_threads_and_forks(tmp_path):
    """Many Python threads at once, then a forked child: all decode the same."""
    import threading

    array = gaussian("BF16", 400_000)
    encoded = wcodec.encode_array(array, threads=4)
    results = []

    def work():
        for _ in range(5):
            results.append(same_bytes(wcodec.decode_array(encoded, threads=4), array))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 30
    code = (
        "import os, sys, numpy as np, wcodec\n"
        "a = np.arange(400_000, dtype=np.float32); e = wcodec.encode_array(a, threads=4)\n"
        "pid = os.fork()\n"
        "ok = (wcodec.decode_array(e, threads=4) == a).all()\n"
        "if pid == 0: os._exit(0 if ok else 1)\n"
        "sys.exit(os.waitpid(pid, 0)[1] or not ok)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60)
    assert done.returncode == 0


def test_demo_model(tmp_path):
    statistics = wcodec.encode_checkpoint(DEMO, tmp_path / "d.wcodec")
    wcodec.decode_checkpoint(tmp_path / "d.wcodec", tmp_path / "d.safetensors")
    assert digest(tmp_path / "d.safetensors") == digest(DEMO)
    assert reference_decoder().decode_file(tmp_path / "d.wcodec").restore() == DEMO.read_bytes()
    assert statistics["compression_ratio"] > 1.45


@pytest.mark.skipif(not REAL_FILES, reason="no ../shared/weights beside the project")
@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: path.stem)
def test_real_files(path, tmp_path):
    wcodec.encode_checkpoint(path, tmp_path / "r.wcodec")
    wcodec.decode_checkpoint(tmp_path / "r.wcodec", tmp_path / "r.safetensors")
    assert digest(tmp_path / "r.safetensors") == digest(path)
    original = load_file(path)
    for name, array in wcodec.decode_checkpoint(tmp_path / "r.wcodec").items():
        assert same_bytes(array, original[name])


@pytest.mark.slow
@pytest.mark.skipif(not REAL_FILES, reason="no ../shared/weights beside the project")
@pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: path.stem)
def test_real_files_in_the_reference_decoder(path, tmp_path):
    wcodec.encode_checkpoint(path, tmp_path / "r.wcodec")
    restored = reference_decoder().decode_file(tmp_path / "r.wcodec").restore()
    assert restored == path.read_bytes()


MINILM = os.environ.get("WCODEC_MINILM", "")


@pytest.mark.slow
@pytest.mark.skipif(not MINILM, reason="WCODEC_MINILM names no all-MiniLM-L6-v2 directory")
def test_minilm(tmp_path):
    source = Path(MINILM) / "model.safetensors"
    statistics = wcodec.encode_checkpoint(source, tmp_path / "m.wcodec")
    assert statistics["compression_ratio"] >= 1.21
    wcodec.decode_checkpoint(tmp_path / "m.wcodec", tmp_path / "m.safetensors")
    assert digest(tmp_path / "m.safetensors") == digest(source)
    cast = {
        name: array.astype(ml_dtypes.bfloat16) if array.dtype == np.float32 else array
        for name, array in load_file(source).items()
    }
    statistics = wcodec.encode_checkpoint(cast, tmp_path / "b.wcodec")
    assert statistics["compression_ratio"] >= 1.50
    for name, array in wcodec.decode_checkpoint(tmp_path / "b.wcodec").items():
        assert same_bytes(array, cast[name])


def test_random_bits_cost_almost_nothing(tmp_path):
    for dtype in ("BF16", "F32", "I64"):
        array = random_bits(dtype, 200_000)
        assert len(wcodec.encode_array(array)) < array.nbytes * 1.001 + 1000
