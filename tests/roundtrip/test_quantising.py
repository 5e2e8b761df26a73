# SPDX-License-Identifier: Apache-2.0
"""quant_type="int8" and dequantize=True: the integers, scales and floats that the definition says,
files, directories, the command line, and what is refused.
"""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.arrays import gaussian, same_bytes
from support.model_directories import shard_name, write_index

import wcodec
from wcodec import dequantise, quantise
from wcodec.container import Reader
from wcodec.container.metadata import Metadata

FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


@pytest.fixture
def tensors():
    rows = np.array([1e-3, 1.0, 0.0, 300.0, 1e-7], np.float32)[:, None]
    matrix = gaussian("F32", 5 * 700).reshape(5, 700) * rows
    return {
        "m.f32": matrix,
        "m.f16": matrix.astype(np.float16),
        "m.bf16": matrix.astype(ml_dtypes.bfloat16),
        "kernel": gaussian("F32", 4 * 3 * 2).reshape(4, 3, 2),
        "bias": gaussian("F32", 700),
        "scalar": np.array(2.0, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "double": gaussian("F64", 20).reshape(4, 5),
        "ids": np.arange(12).reshape(3, 4),
    }


def matrices(tensors):
    return {n: a for n, a in tensors.items() if n.startswith("m.") or n == "kernel"}


def expected_int8(array):
    """By the definition, a channel at a time, without the code under test."""
    values = array.astype(np.float32).reshape(len(array), -1)
    integers, scales = np.zeros(values.shape, np.int8), np.zeros(len(array), np.float32)
    for row, line in enumerate(values):
        scales[row] = np.abs(line).max() / np.float32(127)
        if scales[row]:
            integers[row] = np.clip(np.rint(line / scales[row]), -127, 127)
    return integers.reshape(array.shape), scales


def test_integers_and_scales(tensors, tmp_path):
    path = tmp_path / "a.wcodec"
    wcodec.encode_checkpoint(tensors, path, quant_type="int8")
    found = wcodec.decode_checkpoint(path)
    for name, array in tensors.items():
        if name in matrices(tensors):
            integers, scales = expected_int8(array)
            assert same_bytes(found.pop(name), integers), name
            assert same_bytes(found.pop(f"{name}.scale"), scales), name
        else:
            assert same_bytes(found.pop(name), array), name
    assert not found


def test_floats_again(tensors, tmp_path):
    path = tmp_path / "a.wcodec"
    wcodec.encode_checkpoint(tensors, path, quant_type="int8")
    found = wcodec.decode_checkpoint(path, dequantize=True)
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype
        if name not in matrices(tensors):
            assert same_bytes(found[name], array)
            continue
        integers, scales = expected_int8(array)
        wide = scales.reshape(-1, *[1] * (array.ndim - 1))
        assert same_bytes(found[name], (integers.astype(np.float32) * wide).astype(array.dtype))
        error = np.abs(found[name].astype(np.float64) - array.astype(np.float64))
        rounding = np.abs(array.astype(np.float64)) * float(ml_dtypes.finfo(array.dtype).eps)
        smallest = float(ml_dtypes.finfo(array.dtype).smallest_subnormal)
        assert (error <= 0.5001 * wide + rounding + smallest).all()


@pytest.mark.parametrize("name", FLOATS)
def test_the_largest_values(name):
    largest = ml_dtypes.finfo(FLOATS[name]).max
    array = np.array([[largest, -largest, 0]], FLOATS[name])
    source, dtypes = quantise.quantise(wcodec_source({"a": array}))
    scales = next(t for t in source.tensors if t.name == "a.scale")._quantised.scales
    assert dtypes == {"a": name}
    plain = dequantise.PlainTensor("a", name, (1, 3), array.nbytes)
    (found,) = dequantise.dequantise(np.array([127, -127, 0], np.int8), 0, scales, plain)
    assert np.isfinite(found.astype(np.float64)).all()


def wcodec_source(arrays):
    from wcodec.sources import ArrayTensor, tensor_source

    return tensor_source([ArrayTensor(name, array) for name, array in arrays.items()])


@pytest.mark.parametrize("piece", [1, 7, 64, 5000])
def test_pieces_make_no_difference(tensors, tmp_path, monkeypatch, piece):
    expected = tmp_path / "a.wcodec"
    wcodec.encode_checkpoint(tensors, expected, quant_type="int8")
    restored = wcodec.decode_checkpoint(expected, dequantize=True)
    monkeypatch.setattr(quantise, "PIECE_ELEMENTS", piece)
    monkeypatch.setattr(dequantise, "PIECE_ELEMENTS", piece)
    wcodec.encode_checkpoint(tensors, tmp_path / "b.wcodec", quant_type="int8")
    assert (tmp_path / "b.wcodec").read_bytes() == expected.read_bytes()
    found = wcodec.decode_checkpoint(expected, dequantize=True)
    assert all(same_bytes(found[name], restored[name]) for name in restored)


def test_files(tensors, tmp_path):
    source = tmp_path / "a.safetensors"
    save_file(tensors, source, metadata={"format": "np"})
    statistics = wcodec.encode_checkpoint(
        source, tmp_path / "a.wcodec", quant_type="int8", metadata={"step": "3"}
    )
    assert statistics["input_bytes"] == source.stat().st_size
    wcodec.verify(tmp_path / "a.wcodec")
    assert wcodec.info(tmp_path / "a.wcodec")["options"]["quant_type"] == "int8"

    wcodec.decode_checkpoint(tmp_path / "a.wcodec", tmp_path / "int8.safetensors")
    arrays = wcodec.decode_checkpoint(tmp_path / "a.wcodec")
    check_file(tmp_path / "int8.safetensors", arrays)

    restored = tmp_path / "floats.safetensors"
    for _ in range(2):  # the second time it is compared and kept
        wcodec.decode_checkpoint(tmp_path / "a.wcodec", restored, dequantize=True, resume=True)
        check_file(restored, wcodec.decode_checkpoint(tmp_path / "a.wcodec", dequantize=True))


def check_file(path, arrays):
    """The file is the one that safetensors writes."""
    found = load_file(path)
    assert found.keys() == arrays.keys()
    assert all(same_bytes(found[name], arrays[name]) for name in arrays)
    save_file(arrays, path.with_suffix(".expected"))
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    assert header.pop("__metadata__") == {"format": "np", "step": "3"}
    expected = path.with_suffix(".expected").read_bytes()
    size = int.from_bytes(expected[:8], "little")
    assert list(header.items()) == list(json.loads(expected[8 : 8 + size]).items())


def test_equal_matrices_are_stored_once(tmp_path):
    array = gaussian("F32", 4000).reshape(40, 100)
    wcodec.encode_checkpoint({"a": array, "b": array}, tmp_path / "x", quant_type="int8")
    layers = {row["name"]: row for row in wcodec.info(tmp_path / "x")["layers"]}
    assert layers["b"]["duplicate_of"] == "a"
    found = wcodec.decode_checkpoint(tmp_path / "x", dequantize=True)
    assert same_bytes(found["a"], found["b"])
    wcodec.decode_checkpoint(tmp_path / "x", tmp_path / "y", dequantize=True)
    assert same_bytes(load_file(tmp_path / "y")["b"], found["a"])


def test_directories(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    weight_map = {}
    for number in (1, 2):
        shard = {
            f"{number}.weight": gaussian("F32", 6000, number).reshape(60, 100),
            f"{number}.bias": gaussian("F32", 60, number),
        }
        save_file(shard, model / shard_name(number, 2), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, shard_name(number, 2))
    write_index(model / "model.safetensors.index.json", weight_map, 2 * 4 * 6060)
    wcodec.encode_checkpoint(model, tmp_path / "q", quant_type="int8")
    wcodec.verify(tmp_path / "q")

    wcodec.decode_checkpoint(tmp_path / "q", tmp_path / "int8")
    index = json.loads((tmp_path / "int8" / "model.safetensors.index.json").read_text())
    scales = {f"{n}.weight.scale": shard_name(n, 2) for n in (1, 2)}
    assert index["weight_map"] == weight_map | scales
    assert index["metadata"]["total_size"] == 2 * (6000 + 2 * 4 * 60)

    wcodec.decode_checkpoint(tmp_path / "q", tmp_path / "floats", dequantize=True)
    index = "model.safetensors.index.json"
    assert (tmp_path / "floats" / index).read_text() == (model / index).read_text()
    found = wcodec.decode_checkpoint(tmp_path / "q", dequantize=True)
    assert found.keys() == weight_map.keys()


def test_edited_files(tensors, tmp_path):
    wcodec.encode_checkpoint(tensors, tmp_path / "x", quant_type="int8")
    before = wcodec.decode_checkpoint(tmp_path / "x", dequantize=True)
    new = {"m.f16": np.ones((2, 2), np.float32)}
    wcodec.edit_checkpoint(tmp_path / "x", tmp_path / "y", new, remove=["kernel.scale", "bias"])
    found = wcodec.decode_checkpoint(tmp_path / "y", dequantize=True)
    assert same_bytes(found["m.f32"], before["m.f32"])
    assert same_bytes(found["m.f16"], new["m.f16"])
    assert found["kernel"].dtype == np.int8


def test_dequantising_what_is_not_quantised(tensors, tmp_path):
    save_file(tensors, tmp_path / "a.safetensors")
    wcodec.encode_checkpoint(tmp_path / "a.safetensors", tmp_path / "a.wcodec")
    wcodec.decode_checkpoint(tmp_path / "a.wcodec", tmp_path / "b.safetensors", dequantize=True)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, value):
    array = np.full((2, 3), value, np.float16)
    with pytest.raises(ValueError, match="'a': has values that are not finite"):
        wcodec.encode_checkpoint({"a": array}, tmp_path / "x", quant_type="int8")
    assert not list(tmp_path.iterdir())


def test_what_is_refused(tensors, tmp_path):
    with pytest.raises(ValueError, match="quant_type is 'int4', expected None or 'int8'"):
        wcodec.encode_checkpoint(tensors, tmp_path / "x", quant_type="int4")
    with pytest.raises(ValueError, match=r"its scales would be named like 'kernel\.scale'"):
        wcodec.encode_checkpoint(
            {**tensors, "kernel.scale": tensors["bias"]}, tmp_path / "x", quant_type="int8"
        )
    with pytest.raises(ValueError, match="read twice"):
        wcodec.encode_checkpoint(iter(tensors.items()), tmp_path / "x", quant_type="int8")
    save_file(tensors, tmp_path / "a.safetensors")
    with open(tmp_path / "a.safetensors", "rb") as file, pytest.raises(ValueError, match="twice"):
        wcodec.encode_checkpoint(file, tmp_path / "x", quant_type="int8")
    with pytest.raises(ValueError, match="resume"):
        wcodec.encode_checkpoint(
            tmp_path / "a.safetensors", tmp_path / "x", quant_type="int8", resume=True
        )
    assert not (tmp_path / "x").exists()


HOSTILE = [
    ([], "is no object"),
    ({"a": "F64"}, "was 'F64'"),
    ({"a": ["F32"]}, r"was \['F32'\]"),
    ({"absent": "F32"}, "no I8 matrix"),
    ({"b": "F32"}, "no I8 matrix"),
    ({"flat": "F32"}, "no I8 matrix"),
    ({"none": "F32"}, "no I8 matrix"),
    ({"c": "F32"}, r"no F32 scales of shape \[2\]"),
    ({"d": "F32"}, r"no F32 scales of shape \[2\]"),
]


@pytest.mark.parametrize(("quantised", "words"), HOSTILE)
def test_hostile_metadata(tmp_path, monkeypatch, quantised, words):
    integers = np.ones((2, 3), np.int8)
    arrays = {
        "a": integers,
        "a.scale": np.ones(2, np.float32),
        "b": np.ones((2, 3), np.float32),
        "c": integers,
        "c.scale": np.ones(3, np.float32),
        "d": integers,
        "flat": np.ones(3, np.int8),
        "none": np.ones((0, 3), np.int8),
    }
    pack = Metadata.pack
    monkeypatch.setattr(
        Metadata,
        "pack",
        lambda self: pack(Metadata("0", options={"quantised": quantised}, duplicates=True)),
    )
    wcodec.encode_checkpoint(arrays, tmp_path / "x")
    monkeypatch.undo()
    with Reader(tmp_path / "x") as reader:
        assert reader.metadata.options == {"quantised": quantised}
    wcodec.decode_checkpoint(tmp_path / "x")
    for output in (None, tmp_path / "y"):
        with pytest.raises(wcodec.CorruptError, match=words):
            wcodec.decode_checkpoint(tmp_path / "x", output, dequantize=True)
    assert not (tmp_path / "y").exists()


def test_no_dequantising_from_a_pipe(tensors, tmp_path):
    class Pipe:
        def __init__(self, file):
            self.read = file.read

    wcodec.encode_checkpoint(tensors, tmp_path / "x", quant_type="int8", duplicates=False)
    with open(tmp_path / "x", "rb") as file, pytest.raises(ValueError, match="not a pipe"):
        wcodec.decode_checkpoint(Pipe(file), dequantize=True)


def test_on_the_command_line(tensors, tmp_path, capsys):
    from wcodec.cli.main import run

    save_file(tensors, tmp_path / "a.safetensors")
    assert run(["encode", str(tmp_path / "a.safetensors"), "--quant-type", "int8"]) == 0
    output = str(tmp_path / "b.safetensors")
    assert run(["decode", str(tmp_path / "a.wcodec"), "-o", output, "--dequantize"]) == 0
    capsys.readouterr()
    assert load_file(output)["m.f32"].dtype == np.float32
