# SPDX-License-Identifier: Apache-2.0
"""Plans of directories: what becomes what, and which directories are refused with which words."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.model_directories import (
    index_name,
    read_weight_map,
    shard_name,
    write_index,
    write_model,
    write_shards,
)

from wcodec.checkpoint import decode_index, encode_index, plan_encode
from wcodec.errors import CorruptError, TruncatedError

ONE = {"w": np.zeros(4, np.float32)}


def refused(directory, kind, *words):
    with pytest.raises(kind) as caught:
        plan_encode(str(directory))
    for word in (directory, *words):
        assert str(word) in str(caught.value)


def test_what_becomes_what(tmp_path):
    model = write_model(tmp_path / "model")
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "q4.gguf", "tf.h5"):
        (model / name).write_bytes(b"x")
    (model / "pytorch_model.bin.index.json").write_bytes(b"{}")
    (model / "onnx").mkdir()
    (model / "onnx" / "model.onnx").write_bytes(b"x")
    (model / ".git").mkdir()
    (model / ".git" / "HEAD").write_bytes(b"x")
    (model / "training.bin").write_bytes(b"kept")
    (model / (".0123456789abcdef.0123456789abcdef.wcodec.tmp")).write_bytes(b"stale")
    plan = plan_encode(str(model))
    assert {item.source: item.target for item in plan.shards} == {
        **{
            f"model-0000{i}-of-00003.safetensors": f"model-0000{i}-of-00003.wcodec"
            for i in (1, 2, 3)
        },
        "vae/model.safetensors": "vae/model.wcodec",
    }
    copied = ["1_Pooling/config.json", "README.md", "config.json", "tokenizer.json", "training.bin"]
    assert [item.source for item in plan.copies] == copied
    assert [target for target, _ in plan.indexes] == ["model.wcodec.index.json"]
    assert plan.directories == ["1_Pooling", "empty", "onnx", "vae"]
    assert plan.left_out == [
        ".git",
        "onnx/model.onnx",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "q4.gguf",
        "tf.h5",
    ]
    assert plan.broken == {}
    everything = plan_encode(str(model), all_files=True)
    assert everything.left_out == []
    assert ".git/HEAD" in [item.source for item in everything.copies]


def test_variants_and_single_files(tmp_path):
    model = write_shards(tmp_path / "model", 2)
    write_shards(model, 3, variant="fp16")
    save_file(ONE, model / "model.bf16.safetensors")
    save_file(ONE, model / "consolidated.safetensors")
    save_file(ONE, model / "diffusion-00001-of-00002.fp16.safetensors")
    save_file({"v": ONE["w"]}, model / "diffusion-00002-of-00002.fp16.safetensors")
    plan = plan_encode(str(model))
    assert {target for target, _ in plan.indexes} == {
        "model.wcodec.index.json",
        "model.wcodec.index.fp16.json",
    }
    targets = {item.target for item in plan.shards}
    assert len(targets) == 2 + 3 + 2 + 2
    assert "model.fp16-00003-of-00003.wcodec" in targets
    assert "model.bf16.wcodec" in targets


def test_the_index_keeps_its_schema_and_its_source():
    source = (
        b'{"weight_map":{"b":"model-1.safetensors","\\u00e4":"x/y.safetensors"},\n "more": [1.5],'
        b'  "metadata":{"total_size":12}}'
    )
    encoded = encode_index(source, "index")
    value = json.loads(encoded)
    assert list(value) == ["weight_map", "more", "metadata"]
    assert value["weight_map"] == {"b": "model-1.wcodec", "ä": "x/y.wcodec"}
    assert value["metadata"]["total_size"] == 12
    assert decode_index(encoded, "index") == source
    for bare in (b'{"weight_map": {}}', b'{"metadata": null, "weight_map": {}}'):
        assert decode_index(encode_index(bare, "index"), "index") == bare


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v["metadata"].pop("wcodec"), "source_index"),
        (lambda v: v["metadata"].update(wcodec=3), "source_index"),
        (lambda v: v["metadata"]["wcodec"].update(source_index="?"), "source_index"),
        (lambda v: v["metadata"]["wcodec"].update(source_index="é"), "source_index"),
        (lambda v: v["metadata"]["wcodec"].update(source_index="e30="), "weight_map"),
        (lambda v: v["metadata"].update(total_size=13), "source_index becomes"),
        (lambda v: v["weight_map"].update(c="d.wcodec"), "source_index becomes"),
        (lambda v: v["weight_map"].update(a="b.safetensors"), ".wcodec file"),
    ],
)
def test_a_changed_index_is_refused(change, words):
    source = b'{"metadata":{"total_size":12},"weight_map":{"a":"b.safetensors"}}'
    value = json.loads(encode_index(source, "index"))
    change(value)
    with pytest.raises(CorruptError, match=words):
        decode_index(json.dumps(value).encode(), "index")


@pytest.mark.parametrize(
    "name",
    ["../a.safetensors", "/a.safetensors", "x/../a.safetensors", "./a.safetensors", "..", "", "a"],
)
def test_an_index_names_files_of_the_directory(tmp_path, name):
    model = write_shards(tmp_path / "model")
    write_index(model / index_name(), {**read_weight_map(model), "w": name})
    refused(model, CorruptError, index_name(), "'w'", repr(name))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"weight_map": []}', b"\xff"])
def test_an_index_that_is_none(tmp_path, content):
    model = write_shards(tmp_path / "model")
    (model / index_name()).write_bytes(content)
    refused(model, CorruptError, index_name())


def test_an_index_naming_absent_tensors(tmp_path):
    model = write_shards(tmp_path / "model")
    weight_map = read_weight_map(model)
    write_index(model / index_name(), {**weight_map, "absent": shard_name(1, 3)})
    refused(model, CorruptError, "'absent'", shard_name(1, 3), "no shard")
    write_index(model / index_name(), {**weight_map, "model.layers.1.bias": shard_name(2, 3)})
    refused(model, CorruptError, "'model.layers.1.bias'", shard_name(2, 3), shard_name(1, 3))


def test_missing_and_extra_shards(tmp_path):
    model = write_shards(tmp_path / "model")
    shard = model / shard_name(2, 3)
    data = shard.read_bytes()
    shard.unlink()
    refused(model, CorruptError, shard_name(2, 3), "not in the directory")
    (model / index_name()).unlink()
    refused(model, CorruptError, "2-of-3")
    shard.write_bytes(data)
    plan_encode(str(model))
    save_file(ONE, model / shard_name(1, 4))
    refused(model, CorruptError, "1-of-3")
    write_shards(model)
    refused(model, CorruptError, shard_name(1, 4), "not named by the index")


def test_a_tensor_in_two_shards(tmp_path):
    model = write_shards(tmp_path / "model")
    twice = {"model.layers.1.weight": ONE["w"], "model.layers.2.bias": ONE["w"]}
    save_file({**twice, "model.layers.2.weight": ONE["w"]}, model / shard_name(2, 3))
    refused(model, CorruptError, "'model.layers.1.weight'", shard_name(1, 3), shard_name(2, 3))
    (model / index_name()).unlink()
    refused(model, CorruptError, "'model.layers.1.weight'", shard_name(1, 3), shard_name(2, 3))


def test_directories_with_nothing_to_encode(tmp_path):
    refused(tmp_path, ValueError, "no .safetensors file")
    (tmp_path / "config.json").write_text("{}")
    refused(tmp_path, ValueError, "no .safetensors file")
    refused(tmp_path / "config.json", NotADirectoryError)


def test_wcodec_files_among_the_input(tmp_path):
    save_file(ONE, tmp_path / "a.safetensors")
    for name in ("a.wcodec", "b.wcodec", "model.wcodec.index.json"):
        (tmp_path / name).write_bytes(b"")
        refused(tmp_path, ValueError, name, "already")
        (tmp_path / name).unlink()


def test_what_is_no_file(tmp_path):
    save_file(ONE, tmp_path / "a.safetensors")
    odd = tmp_path / "odd"
    odd.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="link to nothing"):
        plan_encode(str(tmp_path))
    odd.unlink()
    odd.symlink_to(tmp_path)
    refused(tmp_path, ValueError, odd, "link to a directory that it is in")
    odd.unlink()
    os.mkfifo(odd)
    refused(tmp_path, ValueError, odd, "neither")


def test_a_shard_that_cannot_be_opened_is_noted(tmp_path):
    model = write_shards(tmp_path / "model")
    shard = model / shard_name(2, 3)
    shard.write_bytes(shard.read_bytes()[:-1])
    plan = plan_encode(str(model))
    assert list(plan.broken) == [shard_name(2, 3)]
    assert isinstance(plan.broken[shard_name(2, 3)], TruncatedError)
