# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed, or meet a full, a read-only or a failing disk: the output is the old one or
the new one whole, the next run leaves nothing over, the input is as it was.
"""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.arrays import gaussian
from support.model_directories import write_shards
from support.pipes import Pipe, Sink

import wcodec
from wcodec import publication

# Forks a run again and again and kills it at a random moment; prints what was there then, and after
# one more run that nobody disturbed.
KILLER = r"""
import json, os, random, shutil, signal, sys, time
from pathlib import Path
import wcodec, wcodec.decode, wcodec.encode, wcodec.codec.structure
from wcodec.publication import is_temporary

name, source, target, old, new, n = sys.argv[1:]
source, target, old, new = map(Path, (source, target, old, new))
options = {"resume": True} if source.is_dir() else {}

def content(path):
    if not path.is_dir():
        return path.read_bytes()
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return [(str(p.relative_to(path)), p.read_bytes()) for p in files]

def temporaries():
    return sum(is_temporary(p.name) for p in target.parent.rglob("*"))

def run(kill_after=None):
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            getattr(wcodec, name)(source, target, threads=2, **options)
        finally:
            os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return time.monotonic() - begin

def reset():
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
    else:
        shutil.copyfile(old, target)

def timed():
    reset()
    return run()

before = content(source)
seconds = min(timed() for _ in range(3))
random.seed(int(n))
found = []
for _ in range(int(n)):
    reset()
    run(random.uniform(0, 1.05 * seconds))
    killed = {"temporaries": temporaries()}
    if not source.is_dir():
        killed["state"] = {content(old): "old", content(new): "new"}.get(content(target), "broken")
    run()
    killed["then"] = content(target) == content(new)
    killed["left"] = temporaries()
    killed["input"] = content(source) == before
    found.append(killed)
print(json.dumps(found))
"""


def kill_often(tmp_path, name: str, source: Path, old: Path, new: Path, n: int) -> list[dict]:
    """What KILLER says of `n` runs of a function of wcodec, each killed once."""
    (tmp_path / "run").mkdir()
    arguments = [name, source, tmp_path / "run" / "target", old, new, n]
    command = [sys.executable, "-c", KILLER, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == n
    for killed in found:
        assert killed.get("state") != "broken"
        assert killed["then"], "the next run did not make the output whole"
        assert killed["left"] == 0
        assert killed["input"]
    return found


def often(n: int):
    """A few kills by `make test`, `n` by `make test-full`."""
    return pytest.mark.parametrize("n", [3, pytest.param(n, marks=pytest.mark.slow)])


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({str(i): gaussian("F32", 400_000, i).reshape(400, 1000) for i in range(5)}, path)
    return path


def some_kills_came_in_the_middle(found: list[dict]) -> None:
    if len(found) > 20:
        assert any(killed["temporaries"] for killed in found)
        assert {"old"} <= {killed["state"] for killed in found}


@often(80)
def test_killed_while_encoding(tmp_path, model, n):
    old, new = tmp_path / "old", tmp_path / "new"
    wcodec.encode_checkpoint({"x": np.arange(9)}, old)
    wcodec.encode_checkpoint(model, new)
    found = kill_often(tmp_path, "encode_checkpoint", model, old, new, n)
    some_kills_came_in_the_middle(found)


@often(80)
def test_killed_while_decoding(tmp_path, model, n):
    old, encoded = tmp_path / "old", tmp_path / "model.wcodec"
    old.write_bytes(b"what was there before")
    wcodec.encode_checkpoint(model, encoded)
    found = kill_often(tmp_path, "decode_checkpoint", encoded, old, model, n)
    some_kills_came_in_the_middle(found)


@often(40)
def test_killed_in_a_directory(tmp_path, n):
    """The next run resumes, and the directory is as if nothing had happened."""
    source = write_shards(tmp_path / "model", elements=300_000)
    new = tmp_path / "new"
    wcodec.encode_checkpoint(source, new)
    kill_often(tmp_path, "encode_checkpoint", source, source, new, n)


# ---- disks ----

ON_A_DISK = r"""
import sys
from pathlib import Path
import wcodec
source, disk, name = sys.argv[1:]
target = Path(disk, "target")
before = sorted(p.name for p in Path(disk).iterdir())
try:
    getattr(wcodec, name)(source, target)
except OSError as error:
    print(type(error).__name__, error.errno)
assert sorted(p.name for p in Path(disk).iterdir()) == before, "something was left behind"
"""


@pytest.mark.parametrize(
    ("options", "expected"),
    [("size=256k", errno.ENOSPC), ("size=256k,ro", errno.EROFS), ("nr_inodes=1", errno.ENOSPC)],
)
@pytest.mark.parametrize("name", ["encode_checkpoint", "decode_checkpoint"])
def test_a_full_or_read_only_disk(tmp_path, model, name, options, expected):
    source, disk = model, tmp_path / "disk"
    disk.mkdir()
    if name == "decode_checkpoint":
        source = tmp_path / "model.wcodec"
        wcodec.encode_checkpoint(model, source)
    before = source.read_bytes()
    mount = f'mount -t tmpfs -o {options} none "$1" || exit 77; shift; exec "$@"'
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", disk]
    command = [sys.executable, "-c", ON_A_DISK, source, disk, name]
    try:
        done = subprocess.run([*namespace, *command], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no unshare")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["OSError", str(expected)]
    assert source.read_bytes() == before


class FailingFile(io.FileIO):
    """Writes at most 1000 bytes at once, and fails for good after `room` bytes."""

    room = 1 << 60
    error = errno.EIO

    def write(self, data) -> int:
        if FailingFile.room <= 0:
            raise OSError(FailingFile.error, os.strerror(FailingFile.error))
        taken = super().write(memoryview(data).cast("B")[:1000])
        FailingFile.room -= taken
        return taken


@pytest.fixture
def failing(monkeypatch):
    """What publish() gives to write to is a FailingFile."""

    def fdopen(descriptor, mode):
        return io.BufferedWriter(FailingFile(descriptor, mode))

    monkeypatch.setattr(publication.os, "fdopen", fdopen)
    monkeypatch.setattr(FailingFile, "room", 1 << 60)
    return FailingFile


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.safetensors"
    save_file({"w": gaussian("F32", 70_000).reshape(70, 1000)}, path)
    return path


def test_short_writes(tmp_path, small, failing):
    encoded = wcodec.encode_checkpoint(small, tmp_path / "a")
    wcodec.decode_checkpoint(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == small.read_bytes()
    assert encoded["output_bytes"] == (tmp_path / "a").stat().st_size


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("room", [0, 1, 3000, 100_000])
def test_an_error_while_writing(tmp_path, small, failing, monkeypatch, error, room):
    monkeypatch.setattr(failing, "error", error)
    out = tmp_path / "out"
    wcodec.encode_checkpoint(small, tmp_path / "a")
    out.write_bytes(b"old")
    before = sorted(tmp_path.iterdir())
    for call, source in ((wcodec.encode_checkpoint, small), (wcodec.decode_checkpoint, "a")):
        monkeypatch.setattr(failing, "room", room)
        with pytest.raises(OSError, match=os.strerror(error)) as caught:
            call(tmp_path / source, out)
        assert caught.value.errno == error
        assert out.read_bytes() == b"old"
        assert sorted(tmp_path.iterdir()) == before


class FailingPipe(Pipe):
    """Fails to read on after the bytes that it has."""

    def read(self, n: int) -> bytes:
        piece = super().read(n)
        if not piece:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return piece


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_an_error_while_reading(tmp_path, small, part):
    wcodec.encode_checkpoint(small, tmp_path / "a")
    before = sorted(tmp_path.iterdir())
    for call, source in ((wcodec.encode_checkpoint, small), (wcodec.decode_checkpoint, "a")):
        data = (tmp_path / source).read_bytes()
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            call(FailingPipe(data[: int(part * len(data))]), tmp_path / "out")
        assert sorted(tmp_path.iterdir()) == before


def test_interrupted_system_calls(tmp_path, model):
    """A signal every millisecond: calls that it interrupts are made again."""
    n_signals = []
    old = signal.signal(signal.SIGALRM, lambda *_: n_signals.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        wcodec.encode_checkpoint(model, tmp_path / "a")
        wcodec.decode_checkpoint(tmp_path / "a", tmp_path / "b")
        with (tmp_path / "a").open("rb") as file:
            sink = Sink()
            wcodec.decode_checkpoint(file, sink)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert n_signals
    assert (tmp_path / "b").read_bytes() == bytes(sink.data) == model.read_bytes()
