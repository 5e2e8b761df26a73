# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it: what it prints, exit codes, one line of error."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.arrays import gaussian
from support.command_line import run

import wcodec

ROOT = Path(__file__).parents[2]


def digest(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = {
        "a.weight": gaussian("F32", 400 * 300).reshape(400, 300),
        "a.bias": gaussian("F16", 300),
        "tokens": np.arange(5000, dtype=np.int64),
        "scale": np.array(2.5, dtype=np.float32),
        "empty": np.zeros((0, 4), dtype=np.float32),
    }
    tensors["tied"] = tensors["a.weight"].copy()
    save_file(tensors, path, metadata={"format": "np"})
    return path


def check_fails(done, code, *words):
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("wcodec: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert str(word) in done.stderr


def test_there_and_back(model, tmp_path):
    before = digest(model)
    done = run("encode", model)
    assert done.returncode == 0, done.stderr
    assert "ratio" in done.stdout
    assert done.stderr == ""
    assert digest(model) == before
    restored = tmp_path / "restored.safetensors"
    done = run("decode", tmp_path / "model.wcodec", "-o", restored)
    assert done.returncode == 0, done.stderr
    assert digest(restored) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.safetensors",
        "model.wcodec",
        "restored.safetensors",
    ]


def test_default_output_of_decode(model, tmp_path):
    before = digest(model)
    run("encode", model, "-q")
    model.unlink()
    done = run("decode", tmp_path / "model.wcodec", "-T", "1")
    assert done.returncode == 0, done.stderr
    assert digest(model) == before


def test_json(model, tmp_path):
    encoded = tmp_path / "x.wcodec"
    args = ("--json", "--model-name", "m", "--metadata", "a=b=c", "--metadata", "d=e")
    document = json.loads(run("encode", model, "-o", encoded, *args).stdout)
    assert document.keys() == {"schema_version", "results"}
    (statistics,) = document["results"]
    assert statistics["output_bytes"] == encoded.stat().st_size
    assert statistics["input_bytes"] == model.stat().st_size
    codings = {layer["name"]: layer["coding"] for layer in statistics["layers"]}
    assert codings["a.weight"] == "rans16"
    assert codings["tied"] == "reference"
    assert codings["tokens"] == "lz"
    info = json.loads(run("info", encoded, "--json").stdout)
    assert info["model_name"] == "m"
    assert info["metadata"] == {"a": "b=c", "d": "e"}
    assert info["n_layers"] == 6
    assert [layer["name"] for layer in info["layers"]] == [
        layer["name"] for layer in statistics["layers"]
    ]
    (tied,) = (layer for layer in info["layers"] if layer["duplicate_of"])
    assert {tied["name"], tied["duplicate_of"]} == {"tied", "a.weight"}
    (result,) = json.loads(run("verify", encoded, "--json").stdout)["results"]
    assert result["ok"]
    assert result["n_layers"] == 6
    (decoded,) = json.loads(run("decode", encoded, "-o", tmp_path / "y", "--json").stdout)[
        "results"
    ]
    assert decoded["output_bytes"] == model.stat().st_size


def test_the_schema_of_json(model, tmp_path):
    """Fields may be added under a schema version, none may go (docs/guide/cli.md)."""
    run("encode", model)
    path = tmp_path / "model.wcodec"
    statistics = {"input", "output", "input_bytes", "output_bytes", "seconds"}
    encoding = {"compression_ratio", "layers"}
    row = {"name", "dtype", "shape", "data_bytes", "bytes", "bits_per_weight"}
    sums = {"file_bytes", "data_bytes", "compression_ratio", "n_layers", "dtypes"}
    described = {"path", "format_version", "wcodec_version", "model_name", "metadata", "options"}

    def document(*args):
        found = json.loads(run(*args, "--json").stdout)
        assert found["schema_version"] == 1
        return found

    (result,) = document("encode", model, "-f")["results"]
    assert result.keys() >= statistics | encoding
    assert result["layers"][0].keys() >= row | {"coding"}
    (result,) = document("decode", path, "-f")["results"]
    assert result.keys() >= statistics | {"n_layers"}
    (result,) = document("verify", path)["results"]
    assert result.keys() >= {"path", "ok", "n_layers", "n_blocks", "file_bytes", "data_bytes"}
    found = document("info", path)
    assert found.keys() >= sums | described | {"source", "layers"}
    assert found["layers"][0].keys() >= row | {"family", "n_blocks", "duplicate_of"}
    assert found["dtypes"][0].keys() >= row - {"name", "shape"} | {"n_layers", "n_weights"}
    extracted = document("extract", path, "a.weight", "-o", tmp_path / "one.safetensors")
    assert extracted.keys() >= {"input", "name", "output", "input_bytes", "output_bytes"}
    edited = document("edit", path, "--remove", "scale", "-o", tmp_path / "edited.wcodec")
    assert edited.keys() >= statistics | {"copied", "replaced", "added", "removed"}
    assert document("diff", path, path)["differences"] == []
    (difference,) = document("diff", path, tmp_path / "edited.wcodec")["differences"]
    assert difference == {"name": "scale", "kind": "only in a"}


def test_info_shows_every_layer(model, tmp_path):
    run("encode", model)
    done = run("info", tmp_path / "model.wcodec")
    assert done.returncode == 0
    for text in ("400x300", "rans16", "reference", "scalar", "format 0.9", "6 layers"):
        assert text in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    for words in (["a", "2", "layers"], ["weight", "F32"], ["bias", "F16"], ["tokens", "I64"]):
        assert any(line[: len(words)] == words for line in lines)
    totals = [line[:2] for line in lines[-4:]]
    assert sorted(totals) == [["F16", "1"], ["F32", "4"], ["I64", "1"], ["dtype", "layers"]]


def test_info_in_order_and_in_part(model, tmp_path):
    run("encode", model)
    path = tmp_path / "model.wcodec"

    def names(*options) -> list[str]:
        listed = [line.split() for line in run("info", path, *options).stdout.splitlines()[3:-5]]
        found = json.loads(run("info", path, "--json", *options).stdout)
        assert [line[0] for line in listed] == [layer["name"] for layer in found["layers"]]
        assert found["n_layers"] == 6
        return [line[0] for line in listed]

    assert names("--sort", "name") == sorted(names("--sort", "bytes"))
    assert names("--sort", "bytes")[0] == "a.weight"
    assert names("--sort", "ratio")[0] == "tied"
    assert names("--sort", "bits", "--filter", "a.*") == ["a.weight", "a.bias"]
    assert names("--sort", "name", "--filter", "t*d", "--filter", "scale") == ["scale", "tied"]
    assert "6 layers" in run("info", path, "--filter", "nothing").stdout
    check_fails(run("info", path, "--sort", "age"), 2, "age")


def test_info_of_codings(model, tmp_path):
    run("encode", model)
    path = tmp_path / "model.wcodec"
    table = run("info", path, "--codings").stdout
    assert "runner-up, estimated" in table.splitlines()[2]
    assert re.search("weight +F32 +400x300 +rans16 +1 fp32_e8m1 +rans32 [0-9]+ ", table)
    plain = json.loads(run("info", path, "--json").stdout)
    found = json.loads(run("info", path, "--codings", "--json").stdout)
    assert plain.keys() == found.keys()
    for before, layer in zip(plain["layers"], found["layers"], strict=True):
        assert layer.keys() - before.keys() == {"blocks", "estimates"}
        assert sum(block["n_blocks"] for block in layer["blocks"]) == layer["n_blocks"]
        assert sum(block["bytes"] for block in layer["blocks"]) < layer["bytes"]
        sizes = {estimate["coding"]: estimate["bytes"] for estimate in layer["estimates"]}
        assert list(sizes.values()) == sorted(sizes.values())
        if layer["family"] == "rans16":
            assert sizes.keys() == {"rans16", "rans32", "lz", "raw"}
            # Of so small a layer they are exact.
            (block,) = layer["blocks"]
            assert 0 <= block["bytes"] - 16 - sizes["rans16"] < 16


def test_info_of_many_layers(tmp_path):
    one = np.ones(1, np.float32)
    path = tmp_path / "many.wcodec"
    names = (f"layers.{i // 9}.{'abcdefghi'[i % 9]}" for i in range(900))
    wcodec.encode_checkpoint(((name, one) for name in names), path)
    done = run("info", path)
    assert len(done.stdout.splitlines()) == 1 + 2 + 1 + 100 + 900 + 1 + 2


def test_info_of_hostile_names(tmp_path):
    one = np.ones(1, np.float32)
    names = ["", ".", "a", "a.b", "a.b.", "." * 5000, "\x1b[31m", "x\ny"]
    wcodec.encode_checkpoint(dict.fromkeys(names, one), tmp_path / "odd.wcodec")
    done = run("info", tmp_path / "odd.wcodec")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert sum(" F32 " in line for line in done.stdout.splitlines()) == len(names)


def test_verbose_prints_a_line_a_layer_to_stderr(model):
    done = run("encode", model, "-v")
    assert len(done.stderr.splitlines()) == 7
    done = run("decode", model.with_suffix(".wcodec"), "-v", "-f")
    lines = done.stderr.splitlines()
    assert len(lines) == 7
    assert "a.weight  F32 [400, 300]  rans16  480000 bytes" in lines
    assert sum("the same as a.weight" in line for line in lines) == 1
    assert "ratio" in lines[-1]


def test_memory_of_the_command_line(model, tmp_path):
    output = tmp_path / "x"
    check_fails(
        run("encode", model, "-o", output, "--max-memory", "5X"), 2, "expected one like 512M"
    )
    check_fails(run("encode", model, "-o", output, "--max-memory", "1k"), 2, "expected at least")
    assert run("encode", model, "-o", output, "--max-memory", "100MiB").returncode == 0
    check_fails(run("decode", output, "-o", tmp_path / "y", "--max-memory", "9"), 2, "at least")
    assert run("decode", output, "-o", tmp_path / "y", "--max-memory", "1g").returncode == 0


def test_progress_as_json_lines(model, tmp_path):
    encoded = tmp_path / "model.wcodec"
    for args in (("encode", model), ("decode", encoded, "-o", tmp_path / "y"), ("verify", encoded)):
        done = run(*args, "--progress", "json", "-q")
        assert done.returncode == 0
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        assert lines[-1]["done_bytes"] == lines[-1]["total_bytes"] > 0


def test_version_and_help():
    assert run("--version").stdout.startswith("wcodec, version 0.")
    done = run("--help")
    for command in ("encode", "decode", "info", "verify"):
        assert command in done.stdout
        assert run(command, "--help").returncode == 0


def test_existing_output(model, tmp_path):
    output = tmp_path / "model.wcodec"
    output.write_bytes(b"precious")
    check_fails(run("encode", model), 2, output, "-f")
    assert output.read_bytes() == b"precious"
    assert run("encode", model, "-f").returncode == 0
    check_fails(run("decode", output, "-o", model), 2, "exists already")


def test_output_equal_to_input(model, tmp_path):
    before = digest(model)
    check_fails(run("encode", model, "-f", "-o", model), 2, "input itself")
    link = tmp_path / "link"
    link.symlink_to(model)
    check_fails(run("encode", model, "-f", "-o", link), 2, "input itself")
    assert digest(model) == before


@pytest.mark.parametrize("command", [["info"], ["verify"], ["recover", "-o", "rest"], ["decode"]])
def test_errors_name_the_file_once(model, tmp_path, command):
    assert run("encode", model).returncode == 0
    cut = tmp_path / "cut.wcodec"
    cut.write_bytes(model.with_suffix(".wcodec").read_bytes()[:700])
    done = run(*command, cut, cwd=tmp_path)
    check_fails(done, 1, "at 700 bytes; it is cut off")
    assert done.stderr.startswith(f"wcodec: {cut}: ")
    assert done.stderr.count(str(cut)) == 1


def test_missing_files(tmp_path):
    check_fails(run("encode", tmp_path / "no.safetensors"), 1, "no.safetensors")
    check_fails(run("decode", tmp_path / "no.wcodec"), 1, "no.wcodec")
    check_fails(run("info", tmp_path / "no.wcodec"), 1, "no.wcodec")
    check_fails(run("verify", tmp_path / "no.wcodec"), 1, "no.wcodec")


def test_directories_in_the_wrong_place(model, tmp_path):
    check_fails(run("encode", model, "-o", tmp_path / "no" / "x.wcodec"), 1, "directory")
    check_fails(run("encode", model, "-f", "-o", tmp_path), 1, "directory")
    check_fails(run("info", tmp_path), 2, tmp_path, "no .wcodec file")


def test_unnamed_output(tmp_path):
    odd = tmp_path / "weights.bin"
    odd.write_bytes(b"")
    check_fails(run("encode", odd), 2, "-o")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--level", "silly"], ["silly"]),
        (["--predictors", "top,west"], ["predictors", "'west'"]),
        (["--transforms", ""], ["transforms", "''"]),
        (["--tile-size", "5"], ["tile_size"]),
        (["--quant-type", "int3"], ["quant_type", "'int3'"]),
        (["--block-elements", "10"], ["block_elements"]),
        (["--metadata", "novalue"], ["KEY=VALUE"]),
        (["-T", "0"], ["-T"]),
        (["--no-such-option"], ["--no-such-option"]),
    ],
)
def test_wrong_options_of_encode(model, tmp_path, args, words):
    check_fails(run("encode", model, *args), 2, *words)
    assert not (tmp_path / "model.wcodec").exists()


def test_wrong_options_of_decode(model, tmp_path):
    run("encode", model)
    args = ("decode", tmp_path / "model.wcodec", "-o", tmp_path / "y")
    # Without a GPU, or without torch.
    check_fails(run(*args, "--device", "cuda:77"), 1, "cuda:77", "torch")
    check_fails(run(*args, "--use-gpu", "--dequantize"), 2, "dequantize")
    assert not (tmp_path / "y").exists()


def test_unknown_command_and_backend(model):
    check_fails(run("explode"), 2, "explode")
    done = subprocess.run(
        [sys.executable, "-m", "wcodec", "encode", model],
        capture_output=True,
        text=True,
        env={**os.environ, "WCODEC_BACKEND": "abacus"},
    )
    check_fails(done, 1, "WCODEC_BACKEND", "abacus", "scalar")
    check_fails(run("encode", model, env={"WCODEC_THREADS": "many"}), 2, "WCODEC_THREADS")


@pytest.mark.parametrize("damage", ["truncate", "flip", "garbage", "empty"])
def test_damaged_files(model, tmp_path, damage):
    run("encode", model)
    encoded = tmp_path / "model.wcodec"
    data = bytearray(encoded.read_bytes())
    if damage == "truncate":
        data = data[: len(data) // 2]
    elif damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "garbage":
        data = bytearray(b"not a wcodec file at all" * 10)
    else:
        data = bytearray()
    encoded.write_bytes(data)
    model.unlink()
    check_fails(run("decode", encoded), 1)
    done = run("verify", encoded)
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()  # one for each damage that is found
    assert all(line.startswith(f"wcodec: {encoded}: ") for line in lines)
    assert len(lines) == (2 if damage == "truncate" else 1)
    assert [p.name for p in tmp_path.iterdir()] == ["model.wcodec"]


def test_damaged_safetensors(model, tmp_path):
    data = model.read_bytes()
    for wrong in (data[:-1], data + b"x", data[:100], b"", b"\xff" * 100):
        model.write_bytes(wrong)
        check_fails(run("encode", model), 1)
        assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_full_disk_leaves_nothing(model, tmp_path):
    """A file size limit stands in for a full disk: the write in the middle fails."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        f"from wcodec.cli.main import run; sys.exit(run(['encode', {str(model)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    check_fails(done, 1, "File too large")
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_directory(model, tmp_path):
    tmp_path.chmod(0o555)
    try:
        check_fails(run("encode", model), 1, "ermission")
    finally:
        tmp_path.chmod(0o755)


def test_scripts(model, tmp_path):
    encoded, restored = tmp_path / "s.wcodec", tmp_path / "s.safetensors"
    encode = [sys.executable, ROOT / "scripts" / "encode_checkpoint.py", model, encoded]
    done = subprocess.run(
        [*encode, "--tile-size", "16", "--model-name", "demo"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    decode = [sys.executable, ROOT / "scripts" / "decode_checkpoint.py", encoded, restored]
    done = subprocess.run([*decode, "--device", "cpu"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert digest(restored) == digest(model)
    for wrong in ([*encode, "--tile-size", "33"], [*decode, "--device", "cuda:77"]):
        assert subprocess.run(wrong, capture_output=True).returncode != 0
