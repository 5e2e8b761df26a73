# SPDX-License-Identifier: Apache-2.0
"""Directories on the command line: names of outputs, exit codes, kills and interrupts."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from support import command_line
from support.model_directories import shard_name, tree, write_model, write_shards


def command(*args) -> list[str]:
    return [sys.executable, "-m", "wcodec", *map(str, args)]


def run(*args, code=0, **options) -> subprocess.CompletedProcess:
    done = command_line.run(*args, **options)
    assert done.returncode == code, done.stderr
    if code:
        assert done.stderr.startswith("wcodec: ")
        assert done.stderr.count("\n") == 1, done.stderr
    return done


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


def same(a, b) -> bool:
    return subprocess.run(["diff", "-r", a, b]).returncode == 0


def test_there_and_back(model, tmp_path):
    (model / "pytorch_model.bin").write_bytes(b"again")
    done = run("encode", f"{model}/")
    assert "4 shards" in done.stdout
    assert "left out: pytorch_model.bin" in done.stdout
    (model / "pytorch_model.bin").unlink()
    model.rename(tmp_path / "before")
    run("decode", tmp_path / "model.wcodec")
    assert same(tmp_path / "before", model)
    assert "4 shards, 8 layers" in run("info", tmp_path / "model.wcodec").stdout
    assert "ok, 8 layers" in run("verify", tmp_path / "model.wcodec").stdout


def test_json(model, tmp_path):
    (model / "x.gguf").write_bytes(b"")
    (statistics,) = json.loads(run("encode", model, "--json").stdout)["results"]
    assert statistics["output"] == f"{model}.wcodec"
    assert len(statistics["files"]) == 4
    assert statistics["left_out"] == ["x.gguf"]
    document = json.loads(run("encode", model, "--json", "--all-files", "-f").stdout)
    (statistics,) = document["results"]
    assert statistics["left_out"] == []
    assert json.loads(run("info", f"{model}.wcodec", "--json").stdout)["n_layers"] == 8
    (result,) = json.loads(run("verify", f"{model}.wcodec", "--json").stdout)["results"]
    assert result["n_files"] == 4


def test_outputs_that_are_there(model, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    run("encode", model, "-o", output)
    assert "exists already" in run("encode", model, "-o", output, code=2).stderr
    run("encode", model, "-o", output, "-f")
    assert "(4 kept)" in run("encode", model, "-o", output, "--resume").stdout
    assert "name the output" in run("encode", ".", code=2, cwd=model).stderr
    assert "does not end in .wcodec" in run("decode", output, code=2).stderr
    assert "inside" in run("encode", model, "-o", model / "vae" / "x", code=2).stderr


def test_partial_failure_names_the_files(model, tmp_path):
    bad = model / shard_name(3, 3)
    good = bad.read_bytes()
    bad.write_bytes(good[:1000])
    done = run("encode", model, code=3)
    assert str(bad) in done.stderr
    bad.write_bytes(good)
    assert "(3 kept)" in run("encode", model, "--resume").stdout
    run("decode", f"{model}.wcodec", "-o", tmp_path / "restored")
    assert same(model, tmp_path / "restored")


@pytest.mark.parametrize("name", ["a\nb", b"\xff", "\x1b[31m"])
def test_odd_names_are_shown_on_one_line(model, tmp_path, name):
    odd = tmp_path / os.fsdecode(name)
    model.rename(odd)
    (odd / (os.fsdecode(name) + ".gguf")).write_bytes(b"")
    done = run("encode", odd)
    assert len(done.stdout.splitlines()) == 2
    assert "\x1b" not in done.stdout
    json.loads(run("info", f"{odd}.wcodec", "--json").stdout)
    assert "\x1b" not in run("info", f"{odd}.wcodec").stdout


def test_several_files(tmp_path):
    write_shards(tmp_path / "a")
    run("encode", *sorted((tmp_path / "a").glob("*.safetensors")))
    assert len(list((tmp_path / "a").glob("*.wcodec"))) == 3
    out = tmp_path / "out"
    assert "no directory" in run("encode", tmp_path / "a" / "*.s*s", "-o", out, code=2).stderr
    out.mkdir()
    found = json.loads(run("encode", tmp_path / "a" / "*.safetensors", "-o", out, "--json").stdout)
    assert [result["output"] for result in found["results"]] == [
        str(out / shard_name(i, 3).replace(".safetensors", ".wcodec")) for i in (1, 2, 3)
    ]
    restored = tmp_path / "restored"
    restored.mkdir()
    run("decode", out / "*", "-o", restored)
    for path in restored.iterdir():
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    assert "no file matches" in run("decode", tmp_path / "*.nothing", code=1).stderr


def test_some_of_several_files_fail(tmp_path):
    model = write_shards(tmp_path / "a")
    (model / shard_name(1, 3)).write_bytes(b"no")
    done = run("encode", model / "*.safetensors", code=3)
    assert "1 of 3 files failed" in done.stderr
    assert shard_name(1, 3) in done.stderr
    assert len(list(model.glob("*.wcodec"))) == 2
    for path in model.glob("*.safetensors"):
        path.write_bytes(b"no")
    assert "3 of 3" in run("encode", model / "*.safetensors", "-f", code=1).stderr


def test_two_inputs_of_one_output(tmp_path):
    for name in ("a", "b", "out"):
        (tmp_path / name).mkdir()
    write_shards(tmp_path / "a", 1)
    write_shards(tmp_path / "b", 1)
    name = shard_name(1, 1)
    args = ("encode", tmp_path / "a" / name, tmp_path / "b" / name, "-o", tmp_path / "out")
    assert "would both become" in run(*args, code=2).stderr
    assert not list((tmp_path / "out").iterdir())


def wait_for(condition, process) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, "ended too early"
        assert time.monotonic() < end
        time.sleep(0.001)


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    model = write_shards(tmp_path / "model", 8, 1_000_000)
    output = tmp_path / "out"
    for _ in range(5):
        process = subprocess.Popen(
            command("encode", model, "-o", output, "-f"),
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts what runs in the background with the signal ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        wait_for(lambda: list(output.glob("*.wcodec")), process)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        if process.returncode:
            break
        shutil.rmtree(output)  # on a busy machine the run may be done before the signal is sent
    assert process.returncode == 130
    assert error == "wcodec: interrupted\n"
    assert not output.exists()


def test_killed_runs_resume(tmp_path):
    """Each run is killed as it begins another shard; the last finds what the killed ones left."""
    model, output = write_shards(tmp_path / "model", 8, 1_000_000), tmp_path / "out"
    run("encode", model, "-o", tmp_path / "expected")
    stale: set = set()
    for n_done in (0, 2, 4):
        process = subprocess.Popen(command("encode", model, "-o", output, "--resume", "-q"))
        wait_for(
            lambda n=n_done, stale=stale: (
                len(list(output.glob("*.wcodec"))) >= n and set(output.glob(".*.tmp")) - stale
            ),
            process,
        )
        process.kill()
        process.wait()
        stale = set(output.glob(".*.tmp"))
    assert "kept" in run("encode", model, "-o", output, "--resume").stdout
    assert tree(output) == tree(tmp_path / "expected")


def test_a_full_disk_leaves_nothing(model, tmp_path):
    """A file size limit stands in for a full disk."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        f"from wcodec.cli.main import run; sys.exit(run(['encode', {str(model)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everywhere")
def test_unreadable_files_and_read_only_directories(model, tmp_path):
    (model / shard_name(1, 3)).chmod(0)
    assert "ermission" in run("encode", model, code=3).stderr
    (model / shard_name(1, 3)).chmod(0o644)
    tmp_path.chmod(0o555)
    try:
        assert "ermission" in run("encode", model, "-o", tmp_path / "no", code=1).stderr
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.slow
def test_twenty_kills_of_a_gigabyte(tmp_path):
    """Killed at a random moment of a random shard, then run to the end, which must give the bytes
    of an undisturbed run and leave no temporary file; at least 15 of 20 kills meet an unfinished
    shard.
    """
    model = write_shards(tmp_path / "model", 20, 13_000_000)
    assert sum(path.stat().st_size for path in model.iterdir()) > 1e9
    run("encode", model, "-o", tmp_path / "expected")
    expected = tree(tmp_path / "expected")
    choose = random.Random(7)
    unfinished = 0
    for i in range(20):
        output = tmp_path / f"out{i}"
        process = subprocess.Popen(command("encode", model, "-o", output, "-q"))
        n_done = choose.randrange(20)
        wait_for(
            lambda n=n_done, output=output: (
                len(list(output.glob("*.wcodec"))) >= n and list(output.glob(".*.tmp"))
            ),
            process,
        )
        time.sleep(choose.random() * 0.05)
        process.kill()
        process.wait()
        unfinished += bool(list(output.glob(".*.tmp")))
        subprocess.run(command("encode", model, "-o", output, "--resume", "-q"), check=True)
        assert tree(output) == expected
        for path in output.iterdir():
            path.unlink()
    assert unfinished >= 15
