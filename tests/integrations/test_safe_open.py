# SPDX-License-Identifier: Apache-2.0
"""wcodec.safe_open beside safetensors' own: the same values, errors and texts, for both formats."""

import threading
from itertools import islice, product

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from support.arrays import gaussian, same_bytes

import wcodec
import wcodec.numpy
from wcodec.decode import decode_budget
from wcodec.tensor_files import open_file

FRAMEWORKS = ["np", "pt"]
ARRAYS = {
    "b": gaussian("F32", 120).reshape(4, 6, 5),
    "a": np.arange(10),
    "scalar": np.array(3.0, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "half": gaussian("F16", 300_000).reshape(300, 1000),
}
INDEXES = [
    *(0, -1, 3, 4, -5, (0, 1), (0, 1, 2), (0, 1, 2, 0), (-1, -1)),
    *(slice(None), slice(1, 3), slice(0, 4, 2), slice(2, 100), slice(100, 200), slice(None, 2)),
    *(slice(None, None, -1), slice(0, 4, 0), (slice(1, None), 0), (slice(0, 4, 3), slice(1, 6, 2))),
    *(Ellipsis, (Ellipsis, 0), (0, Ellipsis, 1), (), [], (slice(None), slice(None, 20))),
    *(None, (0, None), [0, 2], ([2, 0],), (slice(None), [1, 3]), ([0, 1], [1, 2]), [0, 0], [5]),
    *([-1], [True, False], True, 1.5, (Ellipsis, Ellipsis), np.int64(1), np.array([0, 1])),
]


def need(framework: str) -> None:
    if framework == "pt":
        pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    source, encoded = directory / "a.safetensors", directory / "a.wcodec"
    safetensors.numpy.save_file(ARRAYS, source, metadata={"format": "pt"})
    wcodec.encode_checkpoint(source, encoded)
    return {"safetensors": source, "wcodec": encoded}


def outcome(call):
    """The array of a call, or the class and text of its error."""
    try:
        found = call()
    except safetensors.SafetensorError as error:
        return "SafetensorError", str(error)
    except Exception as error:
        return type(error).__name__, str(error)
    return np.asarray(found).dtype, np.asarray(found).shape, np.asarray(found).tobytes()


@pytest.mark.parametrize("file_format", ["wcodec", "safetensors"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("name", ARRAYS)
def test_slices_are_those_of_safetensors(paths, framework, file_format, name):
    need(framework)
    with (
        safetensors.safe_open(paths["safetensors"], framework) as expected,
        wcodec.safe_open(paths[file_format], framework) as found,
    ):
        theirs, ours = expected.get_slice(name), found.get_slice(name)
        assert (ours.get_shape(), ours.get_dtype()) == (theirs.get_shape(), theirs.get_dtype())
        for index in INDEXES:
            if framework == "np" and name == "empty":
                continue  # safetensors refuses every slice of an empty axis
            assert outcome(lambda i=index: ours[i]) == outcome(lambda i=index: theirs[i]), index


def test_numpy_slices_where_safetensors_fails_by_accident(paths):
    with wcodec.safe_open(paths["wcodec"], "np") as file:
        for name, index in product(["a", "b"], [slice(-3, -1), slice(3, 1), slice(-100, 2)]):
            assert same_bytes(file.get_slice(name)[index], ARRAYS[name][index])
        assert file.get_slice("empty")[:].shape == (0, 4)


@pytest.mark.parametrize("file_format", ["wcodec", "safetensors"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_is_in_a_file(paths, framework, file_format):
    need(framework)
    with (
        safetensors.safe_open(paths["safetensors"], framework) as expected,
        wcodec.safe_open(paths[file_format], framework=framework, backend="pread") as found,
    ):
        assert found.keys() == expected.keys()
        assert found.offset_keys() == expected.offset_keys()
        assert found.metadata() == expected.metadata() == {"format": "pt"}
        assert "a" in found
        assert "c" not in found
        tensors = found.get_tensors()
        assert tensors.keys() == set(ARRAYS)
        for name, array in ARRAYS.items():
            assert same_bytes(np.asarray(found.get_tensor(name)), array)
            assert same_bytes(np.asarray(tensors[name]), array)
        assert found.info("half")["shape"] == [300, 1000]
        assert found.verify()["n_layers"] == len(ARRAYS)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_errors_are_those_of_safetensors(paths, framework, tmp_path):
    need(framework)
    path = paths["wcodec"]

    def both(call):
        theirs = outcome(lambda: call(safetensors.safe_open, paths["safetensors"]))
        assert outcome(lambda: call(wcodec.safe_open, path)) == theirs
        assert theirs[0].endswith("Error")

    both(lambda safe_open, _: safe_open(tmp_path / "no", framework))
    both(lambda safe_open, path: safe_open(path, "foo"))
    both(lambda safe_open, path: safe_open(path, framework, device="foo"))
    both(lambda safe_open, path: safe_open(path, framework, backend="x"))
    both(lambda safe_open, path: safe_open(path, framework).get_tensor("zz"))
    both(lambda safe_open, path: safe_open(path, framework).get_slice("zz"))
    both(lambda safe_open, path: safe_open(path, framework).get_tensor(3))
    both(lambda safe_open, path: safe_open(path, "np", device="cuda"))
    for method in ("keys", "metadata", "offset_keys", "get_tensors"):

        def after_exit(safe_open, path, method=method):
            with safe_open(path, framework) as file:
                pass
            return getattr(file, method)()

        both(after_exit)
    with pytest.raises(TypeError, match="framework"):
        wcodec.safe_open(path)


def test_a_slice_outlives_its_handle(paths):
    with wcodec.safe_open(paths["wcodec"], "np") as file:
        part = file.get_slice("a")
    assert part[1:3].tolist() == [1, 2]


def test_damaged_files(paths, tmp_path):
    damaged = tmp_path / "damaged.wcodec"
    data = paths["wcodec"].read_bytes()
    damaged.write_bytes(b"WCDD" + data[4:])
    with pytest.raises(wcodec.CorruptError):
        wcodec.safe_open(damaged, "np")
    damaged.write_bytes(data[:-1])
    with pytest.raises(wcodec.TruncatedError):
        wcodec.safe_open(damaged, "np")
    (tmp_path / "a.safetensors").write_bytes(b"abc")
    with pytest.raises(wcodec.FormatError, match=r"^Error while deserializing header: "):
        wcodec.safe_open(tmp_path / "a.safetensors", "np")


def test_blocks_decoded_counts(paths):
    with wcodec.safe_open(paths["wcodec"], "np") as file:
        part = file.get_slice("half")
        part[:10]
        assert file.blocks_decoded == 1
        part[:]
        assert file.blocks_decoded == 1 + file.info("half")["n_blocks"] > 2


def test_a_duplicate_of_another_shape(tmp_path):
    arrays = {"a": gaussian("F32", 600_000).reshape(600, 1000)}
    arrays["b"] = arrays["a"].reshape(1000, 600).copy()
    wcodec.encode_checkpoint(arrays, tmp_path / "a.wcodec")
    with wcodec.safe_open(tmp_path / "a.wcodec", "np") as file:
        assert file.info("b")["duplicate_of"] == "a"
        assert same_bytes(file.get_slice("b")[3:7, ::2], arrays["b"][3:7, ::2])


def test_numpy_with_bfloat16_and_fp8(tmp_path):
    arrays = {name: gaussian(name, 5000).reshape(50, 100) for name in ("BF16", "F8_E4M3", "F16")}
    wcodec.numpy.save_file(arrays, tmp_path / "a.wcodec", metadata={"a": "b"})
    data = wcodec.numpy.save(arrays, metadata={"a": "b"})
    for found in (wcodec.numpy.load_file(tmp_path / "a.wcodec"), wcodec.numpy.load(data)):
        assert found.keys() == arrays.keys()
        assert all(same_bytes(found[name], arrays[name]) for name in arrays)
        found["F16"][0] = 0  # writable
    wcodec.decode_checkpoint(tmp_path / "a.wcodec", tmp_path / "a.safetensors")
    found = wcodec.numpy.load_file(tmp_path / "a.safetensors")
    assert all(same_bytes(found[name], arrays[name]) for name in arrays)
    assert wcodec.numpy.load(safetensors.numpy.save({"a": arrays["F16"]})).keys() == {"a"}
    with wcodec.safe_open(tmp_path / "a.wcodec", "np") as file:
        assert file.metadata() == {"a": "b"}


def test_many_threads_at_once(paths):
    wrong = []

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(30):
            first, last = sorted(random.integers(0, 300, 2).tolist())
            if not same_bytes(part[first:last, 5:900], ARRAYS["half"][first:last, 5:900]):
                wrong.append((first, last))
            if not same_bytes(file.get_tensor("half"), ARRAYS["half"]):
                wrong.append("half")

    with wcodec.safe_open(paths["wcodec"], "np", threads=2) as file:
        part = file.get_slice("half")
        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_runs_are_read_ahead(tmp_path):
    layers = {f"layer.{i}": gaussian("F32", 200_000, seed=i) for i in range(8)}
    path = tmp_path / "a.wcodec"
    wcodec.encode_checkpoint(layers, path)
    budget = decode_budget(2)._replace(window_bytes=2 << 20)  # two layers a run
    file = open_file(str(path), budget)
    found = {name: data.tobytes() for name, data in file.read_all(file.entries)}
    assert found == {name: array.tobytes() for name, array in layers.items()}
    data = bytearray(path.read_bytes())
    data[len(data) * 5 // 8] ^= 1
    path.write_bytes(data)
    file = open_file(str(path), budget)
    items = file.read_all(file.entries)
    assert [name for name, _ in islice(items, 4)] == [f"layer.{i}" for i in range(4)]
    with pytest.raises(wcodec.CorruptError, match=r"block \d+ of 'layer\.5'"):
        next(items)
