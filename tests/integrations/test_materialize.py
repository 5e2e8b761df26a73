# SPDX-License-Identifier: Apache-2.0
"""materialize: the original files, made once, whole or not at all."""

import multiprocessing
import os
from pathlib import Path

import pytest
from safetensors.numpy import save_file
from support.arrays import gaussian
from support.model_directories import tree, write_model

import wcodec
from wcodec import materialize


def test_a_directory(tmp_path):
    write_model(tmp_path / "source")
    wcodec.encode_checkpoint(tmp_path / "source", tmp_path / "model.wcodec")
    found = materialize(tmp_path / "model.wcodec", tmp_path / "cache")
    assert tree(tmp_path / "source") == tree(Path(found))
    os.unlink(os.path.join(found, "config.json"))  # would come back if it were made again
    assert materialize(tmp_path / "model.wcodec", tmp_path / "cache") == found
    assert not os.path.exists(os.path.join(found, "config.json"))


def test_a_file_in_the_default_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WCODEC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.wcodec"
    found = []
    for seed in (1, 2):
        save_file({"w": gaussian("F32", 3000, seed)}, tmp_path / "a.safetensors")
        wcodec.encode_checkpoint(tmp_path / "a.safetensors", path)
        found.append(materialize(path))
        with open(found[-1], "rb") as file:
            assert file.read() == (tmp_path / "a.safetensors").read_bytes()
    assert found[0] != found[1]  # the name says what it was made of
    assert found[0].startswith(str(tmp_path / "cache"))


def test_many_processes_make_it_once(tmp_path):
    write_model(tmp_path / "source")
    wcodec.encode_checkpoint(tmp_path / "source", tmp_path / "wc")
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        arguments = (str(tmp_path / "wc"), str(tmp_path / "cache"))
        found = set(pool.starmap(materialize, [arguments] * 8))
    assert len(found) == 1
    assert len([entry for entry in os.scandir(tmp_path / "cache") if entry.is_dir()]) == 1


def test_damage_leaves_nothing(tmp_path):
    wcodec.encode_checkpoint({"a": gaussian("F32", 50_000)}, tmp_path / "a.wcodec")
    data = bytearray((tmp_path / "a.wcodec").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.wcodec").write_bytes(data)
    for _ in range(2):
        with pytest.raises(wcodec.CorruptError, match="block 0 of 'a'"):
            materialize(tmp_path / "a.wcodec", tmp_path / "cache")
    assert not [entry for entry in os.scandir(tmp_path / "cache") if entry.is_dir()]
    with pytest.raises(FileNotFoundError):
        materialize(tmp_path / "nothing.wcodec", tmp_path / "cache")
