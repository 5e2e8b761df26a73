# SPDX-License-Identifier: Apache-2.0
"""A file appears whole or not at all, whoever else wants its name."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from wcodec import publication
from wcodec.publication import publish

ROOT = Path(__file__).parents[2]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("force", [False, True])
def test_the_file_appears_at_the_end_only(tmp_path, force):
    target = tmp_path / "out.wcodec"
    with publish(target, force=force) as file:
        file.write(b"first ")
        assert not target.exists()
        (temporary,) = names(tmp_path)
        assert temporary.startswith(".")
        assert temporary.endswith(".tmp")
        file.write(b"second")
    assert target.read_bytes() == b"first second"
    assert names(tmp_path) == ["out.wcodec"]


def test_relative_paths_and_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with publish("out") as file:
        file.write(b"x")
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("force", [False, True])
def test_after_an_exception_nothing_is_left(tmp_path, error, force):
    target = tmp_path / "out"

    def write():
        with publish(target, force=force) as file:
            file.write(b"x" * 100_000)
            raise error

    with pytest.raises(error):
        write()
    assert names(tmp_path) == []
    if force:
        target.write_bytes(b"old")
        with pytest.raises(error):
            write()
        assert target.read_bytes() == b"old"


def test_an_existing_file_is_refused_before_the_work(tmp_path):
    target = tmp_path / "out"
    target.write_bytes(b"old")
    entered = []
    with pytest.raises(FileExistsError, match="exists already"), publish(target):
        entered.append(True)
    assert not entered
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch, links):
    target = tmp_path / "out"
    if not links:
        monkeypatch.setattr(os, "link", no_links)

    def write():
        with publish(target) as file:
            file.write(b"new")
            target.write_bytes(b"other")

    with pytest.raises(FileExistsError):
        write()
    assert target.read_bytes() == b"other"
    assert names(tmp_path) == ["out"]


def no_links(*_args, **_options):
    raise OSError(errno.EOPNOTSUPP, "no hard links here")


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    with publish(tmp_path / "out") as file:
        file.write(b"new")
    assert (tmp_path / "out").read_bytes() == b"new"
    assert names(tmp_path) == ["out"]


def test_a_failed_rename_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)

    def fail(*_args):
        raise OSError(errno.EIO, "rename failed")

    monkeypatch.setattr(Path, "replace", fail)
    for force in (False, True):
        with pytest.raises(OSError, match="rename failed"), publish(tmp_path / "out", force=force):
            pass
        assert names(tmp_path) == []


def test_another_error_of_the_link_passes(tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise OSError(errno.EIO, "link failed")

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(OSError, match="link failed"), publish(tmp_path / "out"):
        pass
    assert names(tmp_path) == []


def test_of_many_writers_one_wins(tmp_path):
    target = tmp_path / "out"
    barrier = threading.Barrier(8)
    refused = []

    def work(i):
        try:
            with publish(target) as file:
                barrier.wait()
                file.write(bytes([i]) * 1000)
        except FileExistsError:
            refused.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = target.read_bytes()
    assert content == content[:1] * 1000
    assert sorted([*refused, content[0]]) == list(range(8))
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("force", [False, True])
def test_permissions_are_those_of_a_new_file(tmp_path, mask, force):
    previous = os.umask(mask)
    try:
        (tmp_path / "plain").write_bytes(b"")
        with publish(tmp_path / "out", force=force):
            pass
    finally:
        os.umask(previous)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "out")}
    assert modes == {0o666 & ~mask}


def test_a_directory_is_refused(tmp_path):
    for force in (False, True):
        with pytest.raises(IsADirectoryError), publish(tmp_path, force=force):
            pass
    with pytest.raises(FileNotFoundError), publish(tmp_path / "missing" / "out"):
        pass


def test_symbolic_links(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with pytest.raises(FileExistsError), publish(link):
        pass
    with publish(link, force=True) as file:
        file.write(b"new")
    assert target.read_bytes() == b"old"
    assert link.read_bytes() == b"new"
    assert not link.is_symlink()


def test_a_dangling_link_is_a_name_that_is_taken(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError), publish(link):
        pass
    with publish(link, force=True) as file:
        file.write(b"new")
    assert names(tmp_path) == ["link"]


def test_a_fifo_is_written_to(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    received = []
    thread = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    thread.start()
    with publish(fifo) as file:
        file.write(b"through the pipe")
    thread.join()
    assert received == [b"through the pipe"]
    assert names(tmp_path) == ["fifo"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_dev_null_stays():
    with publish("/dev/null") as file:
        file.write(b"x")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def run_python(code: str, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run([sys.executable, "-c", code], env=environment, check=True, **options)


@pytest.mark.parametrize(
    "name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/../dev/stdout"]
)
def test_standard_output_is_written_to_whatever_it_is(tmp_path, name):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "src")!r})
import importlib.util
from wcodec.publication import publish
print("before", flush=True)
with publish({name!r}) as file:
    file.write(b"written\\n")
print("after", flush=True)
"""
    expected = b"before\nwritten\nafter\n"
    assert run_python(code, stdout=subprocess.PIPE).stdout == expected
    out = tmp_path / "out"
    with out.open("wb") as file:
        run_python(code, stdout=file)
    assert out.read_bytes() == expected
    with out.open("ab") as file:
        run_python(code, stdout=file)
    assert out.read_bytes() == expected * 2
    assert names(tmp_path) == ["out"]


def test_durable_before_it_is_visible(tmp_path, monkeypatch):
    steps = []

    def recorded(name, function):
        def call(*args, **options):
            steps.append(name)
            return function(*args, **options)

        return call

    monkeypatch.setattr(os, "fsync", recorded("fsync", os.fsync))
    monkeypatch.setattr(os, "link", recorded("link", os.link))
    with publish(tmp_path / "out") as file:
        file.write(b"x")
    assert steps == ["fsync", "link", "fsync"]


def test_a_directory_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    synced = []

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not here")
        synced.append(descriptor)

    monkeypatch.setattr(publication.os, "fsync", fsync)
    with publish(tmp_path / "out") as file:
        file.write(b"x")
    assert len(synced) == 1
    assert names(tmp_path) == ["out"]


def test_no_descriptor_is_left_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    with publish(tmp_path / "out"):
        pass
    with pytest.raises(ValueError, match="stop"), publish(tmp_path / "other"):
        raise ValueError("stop")
    assert len(os.listdir("/proc/self/fd")) == before


STALE = """
import os, signal, sys
from wcodec.publication import publish
with publish(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_while_publishing(target: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STALE, target])
    assert done.returncode == -9


def test_the_next_run_removes_what_a_killed_one_left(tmp_path):
    for target in ("out", "other", "x\ny"):
        kill_while_publishing(tmp_path / target)
    assert len(names(tmp_path)) == 3
    (tmp_path / "similar.wcodec.tmp").write_bytes(b"")
    with publish(tmp_path / "out") as file:
        file.write(b"whole")
    left = names(tmp_path)
    assert "out" in left
    assert len(left) == 4  # those of other targets stay
    publication.remove_stale(tmp_path)
    assert names(tmp_path) == ["out", "similar.wcodec.tmp"]


def test_what_is_being_written_is_not_stale(tmp_path):
    with publish(tmp_path / "out", force=True) as first:
        first.write(b"first")
        with publish(tmp_path / "out", force=True) as second:
            second.write(b"second")
        publication.remove_stale(tmp_path)
        assert len(names(tmp_path)) == 2
        assert all(publication.is_temporary(name) for name in names(tmp_path) if name != "out")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"first"


def test_a_file_that_is_being_renamed_is_not_stale(tmp_path, monkeypatch):
    link = os.link

    def clean_then_link(*args):
        publication.remove_stale(tmp_path)
        link(*args)

    monkeypatch.setattr(os, "link", clean_then_link)
    with publish(tmp_path / "out") as file:
        file.write(b"whole")
    assert names(tmp_path) == ["out"]


def test_without_locks_nothing_is_stale(tmp_path, monkeypatch):
    kill_while_publishing(tmp_path / "out")

    def no_locks(*_args):
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(publication.fcntl, "flock", no_locks)
    with publish(tmp_path / "out") as file:
        file.write(b"whole")
    assert len(names(tmp_path)) == 2


def test_removing_stale_files_where_one_may_not_is_no_error(tmp_path):
    publication.remove_stale(tmp_path / "no")
    (tmp_path / ".0123456789abcdef.0123456789abcdef.wcodec.tmp").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_bytes(b"x")
    publication.remove_stale(tmp_path)
    assert len(names(tmp_path)) == 2
