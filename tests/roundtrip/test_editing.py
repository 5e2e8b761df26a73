# SPDX-License-Identifier: Apache-2.0
"""Taking layers out, comparing files, and writing files with other layers."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.arrays import gaussian, same_bytes
from support.model_directories import write_shards

import wcodec
from wcodec.codec import batch
from wcodec.container import Reader

TENSORS = {
    "a": gaussian("F32", 300_000).reshape(600, 500),
    "b": gaussian("BF16", 5000),
    "c": np.arange(3000),
    "empty": np.zeros((0, 3), np.float16),
}
TENSORS["tied"] = TENSORS["a"].reshape(-1)


@pytest.fixture
def path(tmp_path):
    plain = {name: array for name, array in TENSORS.items() if name != "b"}
    save_file(plain, tmp_path / "source", metadata={"format": "np"})
    wcodec.encode_checkpoint(TENSORS, tmp_path / "m.wcodec", metadata={"k": "v"}, duplicates=True)
    wcodec.encode_checkpoint(tmp_path / "source", tmp_path / "file.wcodec")
    return tmp_path / "m.wcodec"


def test_one_layer(path, tmp_path):
    for name, array in TENSORS.items():
        assert same_bytes(wcodec.decode_layer(path, name), array)
        wcodec.extract(path, name, tmp_path / "one.wcodec")
        assert same_bytes(wcodec.decode_layer_standalone(tmp_path / "one.wcodec"), array)
        if name != "b":  # safetensors knows no bfloat16 of numpy
            statistics = wcodec.extract(path, name, tmp_path / "one.safetensors")
            assert statistics["output_bytes"] == (tmp_path / "one.safetensors").stat().st_size
            assert same_bytes(load_file(tmp_path / "one.safetensors")[name], array)
    for work in (
        lambda: wcodec.decode_layer(path, "no"),
        lambda: wcodec.extract(path, "no", tmp_path / "x"),
        lambda: wcodec.edit_checkpoint(path, tmp_path / "x", {}, remove=["no"]),
    ):
        with pytest.raises(KeyError, match="'no'"):
            work()
    with pytest.raises(ValueError, match="input itself"):
        wcodec.extract(path, "a", path)
    assert not (tmp_path / "x").exists()


def test_editing(path, tmp_path, monkeypatch):
    output = tmp_path / "edited.wcodec"
    new = {"c": np.ones(7, np.float16), "more": gaussian("F16", 1000)}
    decoded = []
    decode_blocks = batch.decode_blocks

    def noted(*arguments, layer, **options):
        decoded.append(layer)
        decode_blocks(*arguments, layer=layer, **options)

    with monkeypatch.context() as patched:  # what is not touched is not decoded
        patched.setattr(batch, "decode_blocks", noted)
        statistics = wcodec.edit_checkpoint(path, output, new, remove=["b"])
    assert set(decoded) <= {"what was encoded"}
    assert set(statistics["copied"]) == {"a", "tied", "empty"}
    assert statistics["replaced"] == ["c"]
    assert statistics["added"] == ["more"]
    assert statistics["removed"] == ["b"]
    assert statistics["output_bytes"] == output.stat().st_size
    expected = {**TENSORS, **new}
    del expected["b"]
    found = wcodec.decode_checkpoint(output)
    assert found.keys() == expected.keys()
    assert all(same_bytes(found[name], expected[name]) for name in expected)
    assert wcodec.info(output)["metadata"] == {"k": "v"}
    wcodec.verify(output)
    with Reader(path) as before, Reader(output) as after:
        for name in statistics["copied"]:
            records = [b"".join(p.tobytes() for p in r.read_record(name)) for r in (before, after)]
            assert records[0] == records[1]


def test_a_layer_whose_bytes_another_shares_can_go(path, tmp_path):
    with Reader(path) as reader:
        (tied,) = (name for name, entry in reader.layers.items() if entry.is_reference)
        target = reader.layers[tied].target
    output = tmp_path / "out"
    wcodec.edit_checkpoint(path, output, {target: np.ones(3)})
    assert same_bytes(wcodec.decode_layer(output, tied), TENSORS[tied])
    wcodec.edit_checkpoint(path, output, {}, remove=[target])
    assert same_bytes(wcodec.decode_layer(output, tied), TENSORS[tied])
    assert target not in wcodec.decode_checkpoint(output)


def test_editing_a_file_of_a_safetensors_file(path, tmp_path):
    file = tmp_path / "file.wcodec"
    save_file({"c": np.zeros(4)}, tmp_path / "new")
    wcodec.edit_checkpoint(file, file, tmp_path / "new")
    assert wcodec.info(file)["source"] is None
    assert wcodec.info(file)["metadata"] == {"format": "np"}
    wcodec.decode_checkpoint(file, tmp_path / "restored")
    found = load_file(tmp_path / "restored")
    assert same_bytes(found["c"], np.zeros(4))
    assert same_bytes(found["a"], TENSORS["a"])
    with pytest.raises(ValueError, match="both"):
        wcodec.edit_checkpoint(file, file, {"c": np.zeros(1)}, remove=["c"])


def test_the_differences(path, tmp_path):
    changed = {name: array.copy() for name, array in TENSORS.items() if name != "empty"}
    changed["a"][3, 4] += 1
    changed["a"][599, 499] -= 3
    changed["b"][7] = np.nan
    changed["c"] = changed["c"].astype(np.int32)
    changed["new"] = np.zeros(1)
    other = tmp_path / "other.wcodec"
    wcodec.encode_checkpoint(changed, other)
    assert wcodec.diff(path, path) == []
    found = {row["name"]: row for row in wcodec.diff(path, other)}
    assert found.keys() == {"a", "b", "c", "empty", "new"}
    assert found["a"]["n_different"] == 2
    assert found["a"]["n_weights"] == 300_000
    assert found["a"]["max_difference"] == pytest.approx(3, rel=1e-6)
    assert found["b"]["n_different"] == 1
    assert found["b"]["max_difference"] is None
    assert found["c"]["kind"] == "dtype or shape"
    assert found["empty"]["kind"] == "only in a"
    assert found["new"]["kind"] == "only in b"


def test_equal_values_that_are_stored_otherwise_do_not_differ(tmp_path):
    for name, elements in (("a", 2048), ("b", 100_000)):
        wcodec.encode_checkpoint(
            {"w": TENSORS["a"], "z": np.array([0.0])}, tmp_path / name, block_elements=elements
        )
    assert wcodec.diff(tmp_path / "a", tmp_path / "b") == []
    wcodec.encode_checkpoint({"w": TENSORS["a"], "z": np.array([-0.0])}, tmp_path / "b")
    (row,) = wcodec.diff(tmp_path / "a", tmp_path / "b")
    assert (row["name"], row["n_different"], row["max_difference"]) == ("z", 1, 0.0)


def test_a_damaged_record_is_not_copied(path, tmp_path):
    data = bytearray(path.read_bytes())
    with Reader(path) as reader:
        entry = reader.layers["a"]
    data[entry.record_offset + entry.record_bytes // 2] ^= 1
    path.write_bytes(data)
    for work in (
        lambda: wcodec.edit_checkpoint(path, tmp_path / "x", {}),
        lambda: wcodec.extract(path, "a", tmp_path / "x"),
        lambda: wcodec.extract(path, "a", tmp_path / "x.safetensors"),
    ):
        with pytest.raises(wcodec.CorruptError, match="'a'"):
            work()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith((".", "x"))]


def test_on_the_command_line(path, tmp_path):
    def run(*args, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "wcodec", *map(str, args)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    run("extract", path, "a")
    assert same_bytes(load_file(tmp_path / "a.safetensors")["a"], TENSORS["a"])
    assert "exists already" in run("extract", path, "a", code=2)
    assert "no layer 'nothing'" in run("extract", path, "nothing", code=1)
    assert run("diff", path, path) == ""
    save_file({"a": TENSORS["a"] + 1, "n": np.zeros(2)}, tmp_path / "new")
    args = ("edit", path, "-o", "edited.wcodec")
    assert "1 replaced, 1 added, 1 removed" in run(*args, "--with", "new", "--remove", "c")
    assert "exists already" in run(*args, code=2)
    text = run("diff", path, "edited.wcodec", code=1)
    for words in ("a: 300000 of 300000 values differ, by up to 1", "c: only in a", "n: only in b"):
        assert words in text


@pytest.fixture
def directory(tmp_path):
    """A model of three shards, and it encoded."""
    write_shards(tmp_path / "source", elements=5000)
    (tmp_path / "source" / "config.json").write_text("{}")
    wcodec.encode_checkpoint(tmp_path / "source", tmp_path / "model")
    return tmp_path / "model"


def test_one_layer_of_a_directory(directory, tmp_path):
    arrays = wcodec.decode_checkpoint(directory)
    for name, array in arrays.items():
        assert same_bytes(wcodec.decode_layer(directory, name), array)
    name = "model.layers.2.weight"
    wcodec.extract(directory, name, tmp_path / "one.wcodec")
    assert same_bytes(wcodec.decode_layer_standalone(tmp_path / "one.wcodec"), arrays[name])
    with pytest.raises(KeyError, match="'no'"):
        wcodec.decode_layer(directory, "no")
    shutil.copy(directory / "model-00002-of-00003.wcodec", directory / "again.wcodec")
    for work in (
        lambda: wcodec.decode_layer(directory, name),
        lambda: wcodec.diff(directory, directory),
        lambda: wcodec.edit_checkpoint(directory, tmp_path / "x", {}, remove=[name]),
    ):
        with pytest.raises(ValueError, match=r"model\.layers\.2.* name one of the files"):
            work()
    assert same_bytes(wcodec.decode_layer(directory / "again.wcodec", name), arrays[name])


def test_editing_a_directory(directory, tmp_path):
    new = {"model.layers.2.bias": np.ones(7, np.float16), "head": gaussian("F32", 1000)}
    remove = ["model.layers.1.weight"]  # model.embed.weight has its bytes
    before = wcodec.decode_checkpoint(directory)
    statistics = wcodec.edit_checkpoint(directory, tmp_path / "edited", new, remove=remove)
    assert statistics["replaced"] == ["model.layers.2.bias"]
    assert statistics["added"] == ["head"]
    assert statistics["removed"] == remove
    assert len(statistics["copied"]) == 5
    expected = {name: array for name, array in {**before, **new}.items() if name not in remove}
    found = wcodec.decode_checkpoint(tmp_path / "edited")
    assert found.keys() == expected.keys()
    assert all(same_bytes(found[name], expected[name]) for name in expected)
    assert [(d["name"], d["kind"]) for d in wcodec.diff(directory, tmp_path / "edited")] == [
        ("model.layers.1.weight", "only in a"),
        ("model.layers.2.bias", "dtype or shape"),
        ("head", "only in b"),
    ]
    wcodec.verify(tmp_path / "edited")
    restored = tmp_path / "restored"
    wcodec.decode_checkpoint(tmp_path / "edited", restored)
    assert (restored / "config.json").read_text() == "{}"
    index = json.loads((restored / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == expected.keys()
    assert index["weight_map"]["head"] == "model-00003-of-00003.safetensors"
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in expected.values())
    for name, shard in index["weight_map"].items():
        assert name in load_file(restored / shard)


def test_a_shard_that_loses_all_layers_leaves_the_directory(directory, tmp_path):
    remove = ["model.layers.2.weight", "model.layers.2.bias"]
    wcodec.edit_checkpoint(directory, tmp_path / "edited", {}, remove=remove)
    assert not (tmp_path / "edited" / "model-00002-of-00003.wcodec").exists()
    assert len(wcodec.decode_checkpoint(tmp_path / "edited")) == 5
    wcodec.verify(tmp_path / "edited")


def test_edits_of_a_directory_that_are_refused(directory, tmp_path):
    one = {"new": np.ones(3, np.float32)}
    for output in (directory, directory / "in"):
        with pytest.raises(ValueError, match="input"):
            wcodec.edit_checkpoint(directory, output, one)
    wcodec.encode_checkpoint({"x": np.ones(3)}, directory / "vae.wcodec")
    (directory / "model.wcodec.index.json").unlink()
    with pytest.raises(ValueError, match="several models"):
        wcodec.edit_checkpoint(directory, tmp_path / "x", one)
    assert not (tmp_path / "x").exists()
