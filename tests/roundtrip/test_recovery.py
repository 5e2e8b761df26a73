# SPDX-License-Identifier: Apache-2.0
"""Damaged files: every damaged block is named, and what is whole is saved."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.arrays import gaussian, same_bytes

import wcodec
from wcodec.container import Reader

TENSORS = {
    "a": gaussian("F32", 900_000).reshape(900, 1000),
    "b": gaussian("F16", 5000),
    "c": np.arange(3000),
}


@pytest.fixture
def path(tmp_path):
    save_file({**TENSORS, "tied": TENSORS["a"].reshape(-1)}, tmp_path / "m.safetensors")
    wcodec.encode_checkpoint(tmp_path / "m.safetensors", tmp_path / "m.wcodec")
    return tmp_path / "m.wcodec"


def damage(path, places) -> None:
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 1
    path.write_bytes(data)


def places_of(path, name, *blocks) -> list[int]:
    """A byte of the payload of each of these blocks."""
    with Reader(path) as reader:
        layer = reader.open_layer(reader.resolve(name).name)
        start = layer.entry.directory_offset - int(layer.offsets[-1]) + layer.entry.record_offset
        return [start + int(layer.offsets[block]) + 100 for block in blocks]


def test_a_sound_file(path, tmp_path):
    assert wcodec.find_damage(path) == []
    assert wcodec.verify(path, fast=True)["n_layers"] == 4
    found = wcodec.recover(path, tmp_path / "r.wcodec")
    assert found["lost"] == []
    assert (tmp_path / "r.wcodec").read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="input itself"):
        wcodec.recover(path, path)


def test_every_damaged_block_is_named(path, tmp_path):
    damage(path, [*places_of(path, "a", 1, 3), *places_of(path, "b", 0)])
    found = wcodec.find_damage(path)
    with Reader(path) as reader:
        stored = reader.resolve("a").name
        other = ({"a", "tied"} - {stored}).pop()
    expected = [("b", 0), (stored, 1), (stored, 3)]
    assert sorted((d["layer"], d["block"]) for d in found) == sorted(expected)
    assert all("CRC" in d["error"] for d in found)
    with pytest.raises(wcodec.CorruptError, match="CRC"):
        wcodec.verify(path, fast=True)
    command = [sys.executable, "-m", "wcodec", "verify", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 3
    recovered = wcodec.recover(path, tmp_path / "r.wcodec")
    assert recovered["recovered"] == ["c"]
    assert sorted(d["layer"] for d in recovered["lost"]) == sorted([stored, stored, "b", other])
    arrays = wcodec.decode_checkpoint(tmp_path / "r.wcodec")
    assert same_bytes(arrays["c"], TENSORS["c"])


def test_a_block_whose_header_is_not_that_of_the_directory_is_named(path):
    (payload,) = places_of(path, "b", 0)
    damage(path, [payload - 100])  # its CRC, which that does not cover
    (found,) = wcodec.find_damage(path)
    assert (found["layer"], found["block"]) == ("b", 0)
    assert "header" in found["error"]


def test_a_file_without_its_end(path, tmp_path):
    source = (tmp_path / "m.safetensors").read_bytes()
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    found = wcodec.recover(path, tmp_path / "r.wcodec")
    assert len(found["recovered"]) == 4
    assert (tmp_path / "r.wcodec").read_bytes() == whole
    wcodec.decode_checkpoint(tmp_path / "r.wcodec", tmp_path / "restored")
    assert (tmp_path / "restored").read_bytes() == source
    with Reader(tmp_path / "r.wcodec") as reader:
        ends = [entry.record_end for entry in reader.layers.values()]
    for n, size in enumerate([end + 1 for end in ends[:-1]], 1):
        path.write_bytes(whole[:size])
        found = wcodec.recover(path, tmp_path / "r.wcodec")
        assert found["lost"]
        assert len(found["recovered"]) == n
        wcodec.verify(tmp_path / "r.wcodec")


def test_a_head_and_the_metadata_damaged(path, tmp_path):
    with Reader(path) as reader:
        place = reader.layers["b"].record_offset + 60
    damage(path, [40, place])
    found = wcodec.recover(path, tmp_path / "r.wcodec")
    assert sorted(found["recovered"]) == ["a", "c", "tied"]
    assert wcodec.decode_checkpoint(tmp_path / "r.wcodec").keys() == {"a", "c", "tied"}


def test_what_cannot_be_looked_into(tmp_path):
    for content in (b"not of this kind" * 100, b"", b"WCDC" + bytes(1000)):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(wcodec.FormatError):
            wcodec.recover(tmp_path / "x", tmp_path / "y")
    assert not (tmp_path / "y").exists()
    with pytest.raises(FileNotFoundError):
        wcodec.find_damage(tmp_path / "z")


def test_the_command(path, tmp_path):
    damage(path, places_of(path, "c", 0))
    command = [sys.executable, "-m", "wcodec", "recover", path, "-o", tmp_path / "r.wcodec"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3
    assert "lost: block 0 of 'c'" in done.stdout
    assert "3 layers" in done.stdout
    assert "exists already" in subprocess.run(command, capture_output=True, text=True).stderr
