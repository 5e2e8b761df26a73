# SPDX-License-Identifier: Apache-2.0
"""Directories there and back, byte for byte, and what happens when something goes wrong between."""

import errno
import io
import os
import shutil
from typing import ClassVar

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.arrays import same_bytes
from support.model_directories import shard_name, tree, write_model, write_shards

import wcodec
from wcodec import directories
from wcodec.errors import CorruptError, PartialError


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


def encode(model, output, **options):
    return wcodec.encode_checkpoint(model, output, **options)


def there_and_back(model, tmp_path, **options):
    encoded, restored = tmp_path / "encoded", tmp_path / "restored"
    statistics = encode(model, encoded, **options)
    wcodec.decode_checkpoint(encoded, restored)
    return statistics, tree(encoded), tree(restored)


def test_there_and_back(model, tmp_path):
    before = tree(model)
    statistics, encoded, restored = there_and_back(model, tmp_path)
    assert restored == before == tree(model)
    assert not [path for path in encoded if "safetensors" in path]
    assert encoded["tokenizer.json"] == before["tokenizer.json"]
    assert encoded["empty"] is None
    assert statistics["left_out"] == []
    assert [file["kept"] for file in statistics["files"]] == [False] * 4
    sizes = sum(len(data) for path, data in encoded.items() if path.endswith(".wcodec"))
    assert statistics["output_bytes"] == sizes
    info = wcodec.info(tmp_path / "encoded")
    assert [len(file["layers"]) for file in info["files"]] == [3, 2, 2, 1]
    assert info["n_layers"] == 8
    assert info["file_bytes"] == sizes
    # Tied tensors of a shard are stored once.
    assert [layer["family"] for layer in info["files"][0]["layers"]].count("reference") == 1
    assert wcodec.verify(tmp_path / "encoded")["n_files"] == 4


def test_arrays_of_all_shards(tmp_path):
    model = write_shards(tmp_path / "model")
    encode(model, tmp_path / "encoded")
    arrays = wcodec.decode_checkpoint(tmp_path / "encoded")
    expected = {}
    for i in (1, 2, 3):
        expected |= load_file(model / shard_name(i, 3))
    assert arrays.keys() == expected.keys()
    assert all(same_bytes(arrays[name], expected[name]) for name in expected)
    write_shards(model, variant="fp16")
    encode(model, tmp_path / "both")
    with pytest.raises(ValueError, match="another file"):
        wcodec.decode_checkpoint(tmp_path / "both")


def test_left_out_files_and_all_files(model, tmp_path):
    (model / "pytorch_model.bin").write_bytes(b"again")
    before = tree(model)
    statistics, encoded, restored = there_and_back(model, tmp_path)
    assert statistics["left_out"] == ["pytorch_model.bin"]
    assert before.pop("pytorch_model.bin") == b"again"
    assert restored == before
    (tmp_path / "all").mkdir()
    _, encoded, restored = there_and_back(model, tmp_path / "all", all_files=True)
    assert encoded["pytorch_model.bin"] == b"again"
    assert restored == tree(model)


def test_links_are_followed_and_never_written_through(tmp_path):
    """As in a snapshot of the hub's cache, which links to blobs."""
    blobs, snapshot = write_model(tmp_path / "blobs"), tmp_path / "snapshot"
    snapshot.mkdir()
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    before = tree(blobs)
    _, _, restored = there_and_back(snapshot, tmp_path)
    assert restored == before == tree(blobs)
    assert all(path.is_symlink() for path in snapshot.iterdir())
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    for name in ("config.json", shard_name(1, 3)):
        (tmp_path / "restored" / name).unlink()
        (tmp_path / "restored" / name).symlink_to(precious)
    for resume in (True, False):
        wcodec.decode_checkpoint(tmp_path / "encoded", tmp_path / "restored", resume=resume)
        assert precious.read_bytes() == b"precious"
        assert tree(tmp_path / "restored") == before
    (tmp_path / "restored" / "empty").rmdir()
    (tmp_path / "restored" / "empty").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="empty"):
        wcodec.decode_checkpoint(tmp_path / "encoded", tmp_path / "restored")


@pytest.mark.parametrize("name", ["a\nb", "ü", "two words", "-", "a'\"b", b"\xff\xfe"])
def test_odd_names(tmp_path, name):
    model = tmp_path / "model"
    model.mkdir()
    name = os.fsdecode(name)
    os.mkdir(model / name)
    tensors = {"a/b\n": np.zeros(3, np.float32), "../x": np.ones(300, np.float16), "": np.zeros(2)}
    save_file(tensors, tmp_path / "s")
    (tmp_path / "s").rename(model / name / (name + ".safetensors"))
    (model / name / name).write_text("text")
    before = tree(model)
    _, _, restored = there_and_back(model, tmp_path)
    assert restored == before


def test_places_of_the_output(model, tmp_path):
    before = tree(model)
    (tmp_path / "link").symlink_to(model)
    for output, words in (
        (model, "input itself"),
        (tmp_path / "link", "input itself"),
        (model / "out", "inside the input"),
        (tmp_path / "link" / "vae" / "out", "inside the input"),
        (tmp_path, "inside the output"),
    ):
        with pytest.raises(ValueError, match=words):
            encode(model, output)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError, match="not a directory"):
        encode(model, tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        encode(model, tmp_path / "no" / "out")
    with pytest.raises(ValueError, match="expected a path"):
        encode(model, io.BytesIO())
    assert tree(model) == before


def test_an_output_with_other_files_is_refused(model, tmp_path):
    output = tmp_path / "out"
    for odd in ("vae/odd.json", "odd/x", "model-00004-of-00003.wcodec", "config.json/x"):
        path = output / odd
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
        for resume in (False, True):
            with pytest.raises(ValueError, match="not what this run would write"):
                encode(model, output, resume=resume)
        assert path.read_bytes() == b"mine"
        shutil.rmtree(output)


def test_resuming_keeps_what_is_right(model, tmp_path):
    output = tmp_path / "out"
    encode(model, output)
    expected = tree(output)
    second = output / "model-00002-of-00003.wcodec"
    kept = {path.name: path.stat().st_mtime_ns for path in output.glob("*-of-*")}
    second.write_bytes(second.read_bytes()[:-1])
    (output / "model-00003-of-00003.wcodec").write_bytes(b"")
    (output / "config.json").write_bytes(b"half")
    (output / "model.wcodec.index.json").unlink()
    statistics = encode(model, output, resume=True)
    assert [file["kept"] for file in statistics["files"]] == [True, False, False, True]
    assert tree(output) == expected
    first = output / "model-00001-of-00003.wcodec"
    assert first.stat().st_mtime_ns == kept[first.name]
    assert [f["kept"] for f in encode(model, output, resume=True)["files"]] == [True] * 4


def test_resuming_does_not_keep_the_shards_of_another_model(tmp_path):
    """A fine-tune has the same names, header and sizes."""
    model, other = write_shards(tmp_path / "a"), write_shards(tmp_path / "b", seed=100)
    output = tmp_path / "out"
    encode(other, output)
    statistics = encode(model, output, resume=True)
    assert not any(file["kept"] for file in statistics["files"])
    encode(model, tmp_path / "expected")
    assert tree(output) == tree(tmp_path / "expected")


@pytest.mark.parametrize(
    "options", [{"block_elements": 2048}, {"model_name": "m"}, {"metadata": {"a": "b"}}]
)
def test_resuming_does_not_keep_other_options(tmp_path, options):
    model = write_shards(tmp_path / "model")
    encode(model, tmp_path / "out")
    statistics = encode(model, tmp_path / "out", resume=True, **options)
    assert not any(file["kept"] for file in statistics["files"])
    encode(model, tmp_path / "expected", **options)
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


def test_resuming_a_decode(model, tmp_path):
    encoded, restored = tmp_path / "encoded", tmp_path / "restored"
    encode(model, encoded)
    wcodec.decode_checkpoint(encoded, restored)
    for path, change in ((shard_name(1, 3), b"x"), (shard_name(2, 3), None)):
        data = bytearray((restored / path).read_bytes())
        data[-1:] = b"" if change is None else bytes([data[-1] ^ 1])
        (restored / path).write_bytes(data)
    with (restored / "vae" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    statistics = wcodec.decode_checkpoint(encoded, restored, resume=True)
    assert [file["kept"] for file in statistics["files"]] == [False, False, True, False]
    assert tree(restored) == tree(model)


def test_resuming_one_file(tmp_path):
    source, encoded, restored = (tmp_path / name for name in ("a", "b", "c"))
    save_file({"w": np.arange(1000.0)}, source)
    for output, work in (
        (encoded, lambda: encode(source, encoded, resume=True)),
        (restored, lambda: wcodec.decode_checkpoint(encoded, restored, resume=True)),
    ):
        first = work()
        data, time = output.read_bytes(), output.stat().st_mtime_ns
        second = work()
        assert output.stat().st_mtime_ns == time
        assert first["output_bytes"] == second["output_bytes"]
        output.write_bytes(data[:-1])
        work()
        assert output.read_bytes() == data


def test_a_bad_shard_does_not_keep_the_others_from_being_done(model, tmp_path):
    bad = model / shard_name(2, 3)
    good = bad.read_bytes()
    output = tmp_path / "out"
    bad.write_bytes(good[:-1])
    with pytest.raises(PartialError, match=r"1 of 4 files failed: .*00002.*its tensors") as caught:
        encode(model, output)
    assert list(caught.value.failures) == [str(bad)]
    assert caught.value.n_done == 3
    done = tree(output)
    assert not [path for path in done if "index" in path or "00002" in path or "tmp" in path]
    assert "config.json" in done
    with pytest.raises(CorruptError):
        wcodec.decode_checkpoint(output, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()
    bad.write_bytes(good)
    statistics = encode(model, output, resume=True)
    assert [file["kept"] for file in statistics["files"]] == [True, False, True, True]
    wcodec.decode_checkpoint(output, tmp_path / "restored")
    assert tree(tmp_path / "restored") == tree(model)


def test_a_damaged_shard_of_a_wcodec_directory(model, tmp_path):
    encoded = tmp_path / "encoded"
    encode(model, encoded)
    bad = encoded / "model-00003-of-00003.wcodec"
    data = bytearray(bad.read_bytes())
    data[len(data) // 2] ^= 1
    bad.write_bytes(data)
    for work in (
        lambda: wcodec.verify(encoded),
        lambda: wcodec.decode_checkpoint(encoded, tmp_path / "restored"),
    ):
        with pytest.raises(PartialError, match=r"00003-of-00003.*(layer|block)") as caught:
            work()
        assert list(caught.value.failures) == [str(bad)]
    bad.write_bytes(b"")
    with pytest.raises(PartialError):
        wcodec.info(encoded)


def test_if_all_fail_nothing_is_left(tmp_path):
    model = write_shards(tmp_path / "model")
    for path in model.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(PartialError) as caught:
        encode(model, tmp_path / "out")
    assert caught.value.n_done == 0
    assert len(caught.value.failures) == 3
    assert not (tmp_path / "out").exists()


class Interruption:
    """Raises an error when the second shard is published."""

    def __init__(self, monkeypatch, error):
        self._publish = directories.publish
        self._error = error
        self._left = 2
        monkeypatch.setattr("wcodec.encode.publish", self)

    def __call__(self, path, **options):
        self._left -= 1
        if not self._left:
            raise self._error
        return self._publish(path, **options)


DISK_ERRORS = [
    OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
]
FATAL = [KeyboardInterrupt(), MemoryError(), *DISK_ERRORS]


@pytest.mark.parametrize("error", FATAL, ids=repr)
def test_after_an_interrupt_or_a_full_disk_nothing_is_left(model, tmp_path, monkeypatch, error):
    Interruption(monkeypatch, error)
    with pytest.raises(type(error)):
        encode(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_that_resumes_keeps_what_it_finished(model, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        Interruption(patched, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            encode(model, tmp_path / "out", resume=True)
    left = tree(tmp_path / "out")
    assert [path for path, data in left.items() if data is not None] == [
        "model-00001-of-00003.wcodec"
    ]
    statistics = encode(model, tmp_path / "out", resume=True)
    assert [file["kept"] for file in statistics["files"]] == [True, False, False, False]


def test_half_replaced_output_has_no_index(tmp_path, monkeypatch):
    """Else the shards of two models would pass for one."""
    encode(write_shards(tmp_path / "a"), tmp_path / "out")
    model = write_shards(tmp_path / "b", seed=100)
    with monkeypatch.context() as patched:
        Interruption(patched, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            encode(model, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*index*"))
    encode(model, tmp_path / "out")
    encode(model, tmp_path / "expected")
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


def test_an_io_error_of_one_input_is_a_partial_failure(model, tmp_path, monkeypatch):
    Interruption(monkeypatch, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(PartialError, match="Input/output error") as caught:
        encode(model, tmp_path / "out")
    assert caught.value.n_done == 3


def test_an_error_of_the_output_is_not_blamed_on_an_input(model, tmp_path, monkeypatch):
    path = str(tmp_path / "out" / ".x.tmp")
    Interruption(monkeypatch, PermissionError(errno.EACCES, "Permission denied", path))
    with pytest.raises(PermissionError):
        encode(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_changes_while_it_is_read(model, tmp_path):
    shard = model / shard_name(2, 3)

    def touch(done, total):
        os.utime(shard, ns=(done, done))

    with pytest.raises(PartialError, match="changed while it was read"):
        encode(model, tmp_path / "out", progress=touch)
    with pytest.raises(CorruptError, match="changed while it was read"):
        encode(shard, tmp_path / "one.wcodec", progress=touch)
    assert not (tmp_path / "one.wcodec").exists()


def test_progress_counts_all_shards(model, tmp_path):
    for work in (
        lambda watch: encode(model, tmp_path / "a", progress=watch),
        lambda watch: encode(model, tmp_path / "a", progress=watch, resume=True),
        lambda watch: wcodec.decode_checkpoint(tmp_path / "a", tmp_path / "b", progress=watch),
    ):
        seen = []
        work(lambda done, total, seen=seen: seen.append((done, total)))
        done, total = zip(*seen, strict=True)
        assert len(set(total)) == 1
        assert done[-1] == total[-1]
        assert list(done) == sorted(done)


class Bar:
    """What tqdm.tqdm offers, as far as it is used."""

    made: ClassVar[list] = []

    def __init__(self, total=None, unit="it", unit_scale=False):
        self.total, self.n, self.closed = total, 0, False
        assert (unit, unit_scale) == ("B", True)
        self.made.append(self)

    def update(self, n):
        assert n >= 0
        self.n += n

    def close(self):
        self.closed = True


def test_progress_may_be_a_class_like_tqdm(model, tmp_path):
    Bar.made.clear()
    encode(model, tmp_path / "a", progress=Bar)
    wcodec.decode_checkpoint(tmp_path / "a", tmp_path / "b", progress=Bar)
    wcodec.verify(tmp_path / "a", progress=Bar)
    wcodec.decode_checkpoint(tmp_path / "a", progress=Bar)
    with pytest.raises(ValueError, match=r"no \.wcodec"):
        wcodec.verify(model, progress=Bar)
    assert len(Bar.made) == 5
    assert all(bar.closed for bar in Bar.made)
    assert all(bar.n == bar.total for bar in Bar.made[:4])
