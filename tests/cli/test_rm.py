# SPDX-License-Identifier: Apache-2.0
"""--rm removes an input only when its output is durable and was compared with it."""

import errno
import os

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.arrays import gaussian

import wcodec
from wcodec import decode as decode_module
from wcodec import encode as encode_module
from wcodec.cli import main


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"w": gaussian("F16", 70 * 300).reshape(70, 300), "i": np.arange(9)}, path)
    return path


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_there_and_back(model, tmp_path):
    before = model.read_bytes()
    assert main.run(["encode", str(model), "--rm", "-q"]) == 0
    assert names(tmp_path) == ["m.wcodec"]
    assert main.run(["decode", str(tmp_path / "m.wcodec"), "--rm", "-q"]) == 0
    assert names(tmp_path) == ["m.safetensors"]
    assert model.read_bytes() == before


def test_of_several_those_that_fail_stay(model, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"none")
    inputs = [str(tmp_path / "bad.safetensors"), str(model)]
    assert main.run(["encode", *inputs, "--rm", "-q"]) == 3
    assert names(tmp_path) == ["bad.safetensors", "m.wcodec"]


@pytest.mark.parametrize("damage", ["another value", "cut off", "longer"])
@pytest.mark.parametrize("command", ["encode", "decode"])
def test_a_wrong_output_keeps_the_input(model, tmp_path, monkeypatch, capsys, command, damage):
    """The output is damaged between its writing and the second look."""
    source = model if command == "encode" else tmp_path / "m.wcodec"
    if command == "decode":
        wcodec.encode_checkpoint(model, source)
        model.unlink()
    module = encode_module if command == "encode" else decode_module
    work = getattr(module, f"{command}_checkpoint")

    def then_damage(input, output, **options):
        result = work(input, output, **options)
        if isinstance(output, str):  # not the comparison
            with open(output, "r+b") as file:
                data = bytearray(file.read())
                data[-40] ^= 1
                changed = {"another value": data, "cut off": data[:-1], "longer": data + b"x"}
                file.seek(0)
                file.truncate()
                file.write(changed[damage])
        return result

    monkeypatch.setattr(module, f"{command}_checkpoint", then_damage)
    assert main.run([command, str(source), "--rm", "-q"]) == 1
    assert source.exists()
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("failing", ["file", "directory"])
def test_what_is_not_durable_keeps_the_input(model, tmp_path, monkeypatch, failing):
    fsync = os.fsync

    def fail(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path == str(tmp_path / "m.wcodec" if failing == "file" else tmp_path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    assert main.run(["encode", str(model), "--rm", "-q"]) == 1
    assert model.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", "{model}", "--quant-type", "int8"],
        ["encode", "{model}", "-o", "-"],
        ["encode", "-", "-o", "{directory}/x"],
        ["encode", "{directory}", "-o", "{directory}/../x"],
        ["encode", "{link}", "-o", "{directory}/x"],
        ["decode", "{encoded}", "-o", "{directory}/x", "--dequantize"],
    ],
)
def test_what_it_refuses(model, tmp_path, arguments):
    directory = tmp_path / "d"
    directory.mkdir()
    encoded, link = tmp_path / "e.wcodec", tmp_path / "link"
    wcodec.encode_checkpoint(model, encoded)
    link.symlink_to(model)
    places = {"model": model, "directory": directory, "encoded": encoded, "link": link}
    before = names(tmp_path)
    assert main.run([item.format(**places) for item in arguments] + ["--rm", "-q"]) == 2
    assert names(tmp_path) == before
    assert names(directory) == []
