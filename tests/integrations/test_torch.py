# SPDX-License-Identifier: Apache-2.0
"""wcodec.torch: files, models, lazy tensors; the same bits as safetensors.torch, and nothing half
loaded.
"""

import json
import shutil
import threading

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import safetensors.torch  # noqa: E402
from support.model_directories import read_weight_map, write_shards  # noqa: E402

import wcodec  # noqa: E402
import wcodec.torch  # noqa: E402
from wcodec.checkpoint import encode_index  # noqa: E402
from wcodec.torch import LazyTensor, lazy_state_dict, load_wcodec_checkpoint  # noqa: E402

DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32),
    *(torch.int64, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu),
]


def tensor(dtype, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    if dtype == torch.float8_e8m0fnu:
        return torch.randint(1, 200, shape, generator=generator, dtype=torch.uint8).view(dtype)
    if dtype.is_floating_point or dtype.is_complex:
        return (torch.randn(shape, generator=generator) * 0.02).to(dtype)
    return torch.randint(0, 100, shape, generator=generator).to(dtype)


def same(a, b) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.contiguous()
        .reshape(-1)
        .view(torch.uint8)
        .equal(b.contiguous().reshape(-1).view(torch.uint8))
    )


def all_same(a, b) -> bool:
    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


@pytest.fixture
def tensors():
    found = {str(dtype): tensor(dtype, 40, 30, seed=i) for i, dtype in enumerate(DTYPES)}
    found["scalar"] = torch.tensor(1.5)
    found["empty"] = torch.empty(0, 5, dtype=torch.bfloat16)
    found["large"] = tensor(torch.bfloat16, 500, 700)
    return found


def test_every_dtype_there_and_back(tensors, tmp_path):
    wcodec.torch.save_file(tensors, tmp_path / "a.wcodec", metadata={"a": "b"})
    assert all_same(wcodec.torch.load_file(tmp_path / "a.wcodec"), tensors)
    data = wcodec.torch.save(tensors, metadata={"a": "b"})
    assert all_same(wcodec.torch.load(data), tensors)
    assert all_same(wcodec.load_to_torch(tmp_path / "a.wcodec"), tensors)
    wcodec.decode_checkpoint(tmp_path / "a.wcodec", tmp_path / "a.safetensors")
    assert all_same(safetensors.torch.load_file(tmp_path / "a.safetensors"), tensors)
    assert all_same(wcodec.torch.load_file(tmp_path / "a.safetensors"), tensors)
    few = {"a": tensors["scalar"]}
    assert all_same(wcodec.torch.load(safetensors.torch.save(few)), few)
    with wcodec.safe_open(tmp_path / "a.wcodec", "pt") as file:
        assert file.metadata() == {"a": "b"}


def test_fp4_is_packed_as_torch_does(tmp_path):
    packed = tensor(torch.uint8, 64, 32).view(torch.float4_e2m1fn_x2)
    wcodec.torch.save_file({"a": packed}, tmp_path / "a.wcodec")
    assert wcodec.info(tmp_path / "a.wcodec")["layers"][0]["shape"] == [64, 64]
    found = wcodec.torch.load_file(tmp_path / "a.wcodec")["a"]
    assert found.view(torch.uint8).equal(packed.view(torch.uint8))
    wcodec.decode_checkpoint(tmp_path / "a.wcodec", tmp_path / "a.safetensors")
    found = safetensors.torch.load_file(tmp_path / "a.safetensors")["a"]
    assert found.view(torch.uint8).equal(packed.view(torch.uint8))


def test_what_cannot_be_saved(tmp_path):
    base = torch.zeros(4, 4)
    save_file = wcodec.torch.save_file
    with pytest.raises(ValueError, match="not contiguous"):
        save_file({"a": base.t()[:3]}, tmp_path / "a.wcodec")
    with pytest.raises(RuntimeError, match="share memory"):
        save_file({"a": base, "b": base}, tmp_path / "a.wcodec")
    with pytest.raises(ValueError, match="dict"):
        save_file([base], tmp_path / "a.wcodec")
    with pytest.raises(ValueError, match="invalid"):
        save_file({"a": 1}, tmp_path / "a.wcodec")
    assert not list(tmp_path.iterdir())


class Tied(torch.nn.Module):
    def __init__(self, width=8, device=None):
        super().__init__()
        self.embed = torch.nn.Embedding(50, width, device=device)
        self.norm = torch.nn.BatchNorm1d(width, device=device)
        self.head = torch.nn.Linear(width, 50, bias=False, device=device)
        self.head.weight = self.embed.weight


def test_models_with_shared_tensors(tmp_path):
    model, other = Tied(), Tied()
    wcodec.torch.save_model(model, tmp_path / "a.wcodec")
    safetensors.torch.save_model(model, str(tmp_path / "a.safetensors"))
    for name in ("a.wcodec", "a.safetensors"):
        assert wcodec.torch.load_model(other, tmp_path / name) == (set(), [])
        assert all_same(other.state_dict(), model.state_dict())
        assert other.head.weight is other.embed.weight
    with (
        wcodec.safe_open(tmp_path / "a.wcodec", "pt") as ours,
        safetensors.safe_open(tmp_path / "a.safetensors", "pt") as theirs,
    ):
        assert ours.keys() == theirs.keys()
        assert ours.metadata() == theirs.metadata()


@pytest.mark.parametrize("device", [None, "meta"])
def test_checkpoint_into_a_model(tmp_path, device):
    model, other = Tied(), Tied(device=device)
    wcodec.torch.save_model(model, tmp_path / "a.wcodec")
    result = load_wcodec_checkpoint(other, tmp_path / "a.wcodec")
    assert result == ([], [], [])
    assert all_same(other.state_dict(), model.state_dict())
    assert other.head.weight is other.embed.weight
    assert isinstance(other.norm.weight, torch.nn.Parameter)
    assert other.norm.weight.requires_grad


def test_shapes_and_names_that_differ(tmp_path):
    wcodec.torch.save_model(Tied(), tmp_path / "a.wcodec")
    for model in (Tied(width=9), torch.nn.Linear(3, 3)):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(RuntimeError, match=r"size mismatch for|Missing key"):
            load_wcodec_checkpoint(model, tmp_path / "a.wcodec")
        with pytest.raises(RuntimeError, match=r"size mismatch for|Missing key"):
            wcodec.torch.load_model(model, tmp_path / "a.wcodec")
        assert all_same(model.state_dict(), before)
    result = load_wcodec_checkpoint(Tied(width=9), tmp_path / "a.wcodec", strict=False)
    assert "norm.weight" in result.mismatched_keys
    assert not result.missing_keys
    result = load_wcodec_checkpoint(torch.nn.Linear(3, 3), tmp_path / "a.wcodec", strict=False)
    assert result.missing_keys == ["weight", "bias"]
    assert "norm.weight" in result.unexpected_keys


@pytest.fixture
def sharded(tmp_path):
    write_shards(tmp_path / "source")
    wcodec.encode_checkpoint(tmp_path / "source", tmp_path / "wc")
    expected = {}
    for shard in sorted((tmp_path / "source").glob("*.safetensors")):
        expected |= safetensors.torch.load_file(shard)
    return tmp_path / "wc", expected


def test_sharded_directories(sharded):
    path, expected = sharded
    assert all_same(load_wcodec_checkpoint(None, path), expected)
    assert all_same(wcodec.load_to_torch(path), expected)
    lazy = lazy_state_dict(path)
    assert all_same({name: value.materialize() for name, value in lazy.items()}, expected)


def test_a_missing_shard(sharded):
    path, _ = sharded
    (path / "model-00002-of-00003.wcodec").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00003"):
        lazy_state_dict(path)


def test_an_index_that_names_absent_tensors(sharded):
    path, _ = sharded
    weight_map = read_weight_map(path.parent / "source")
    weight_map["no.such.tensor"] = "model-00001-of-00003.safetensors"
    source = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    (path / "model.wcodec.index.json").write_bytes(encode_index(source, "index"))
    with pytest.raises(wcodec.CorruptError, match=r"no\.such\.tensor"):
        load_wcodec_checkpoint(None, path)


def test_a_directory_without_wcodec_files(sharded, tmp_path):
    source = tmp_path / "source"
    assert read_weight_map(source)
    with pytest.raises(FileNotFoundError, match="wcodec encode"):
        wcodec.load_to_torch(source)
    with pytest.raises(FileNotFoundError, match="No such file"):
        wcodec.load_to_torch(tmp_path / "nothing")


def test_a_damaged_block_leaves_the_model_as_it_was(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(600, 600), torch.nn.Linear(600, 600))
    path = tmp_path / "a.wcodec"
    wcodec.torch.save_model(model, path)
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)
    other = torch.nn.Sequential(torch.nn.Linear(600, 600), torch.nn.Linear(600, 600))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    for load in (
        lambda: load_wcodec_checkpoint(other, path),
        lambda: wcodec.torch.load_model(other, path),
        lambda: wcodec.torch.load_file(path),
        lambda: wcodec.load_to_torch(path),
    ):
        with pytest.raises(wcodec.CorruptError, match=r"block \d+ of '[01].weight'"):
            load()
    assert all_same(other.state_dict(), before)


def test_rows_and_columns_only(sharded):
    path, expected = sharded
    slices = {
        "model.layers.1.weight": slice(100, 200),
        "model.layers.2.weight": [3, 1],
    }
    found = wcodec.load_to_torch(path, slices=slices)
    for name, value in expected.items():
        assert same(found[name], value[slices.get(name, ...)])
    with pytest.raises(KeyError, match="zz"):
        wcodec.load_to_torch(path, slices={"zz": 0})
    with pytest.raises(wcodec.DeviceError, match="sees no CUDA GPU"):
        wcodec.load_to_torch(path, device="cuda")


def test_lazy_tensors(tmp_path):
    value = tensor(torch.bfloat16, 300, 1000)
    wcodec.torch.save_file({"a": value, "s": torch.tensor(2.0)}, tmp_path / "a.wcodec")
    lazy = lazy_state_dict(tmp_path / "a.wcodec")
    a = lazy["a"]
    assert isinstance(a, torch.Tensor)
    assert (a.shape, a.dtype, a.device.type) == (value.shape, value.dtype, "cpu")
    file = a._file
    assert a[...] is a
    assert isinstance(a.detach(), LazyTensor)
    assert a.to("meta").is_meta
    assert "'a'" in repr(a)
    assert file.n_blocks == 0
    assert same(a[:10, 5], value[:10, 5])
    assert file.n_blocks == 1
    assert same(a.to(torch.float32), value.float())
    assert same(a + 1, value + 1)
    assert same(torch.cat([a, a]), torch.cat([value, value]))
    assert same(torch.zeros_like(value).copy_(a), value)
    assert lazy["s"].item() == 2.0
    with pytest.raises(RuntimeError, match="cannot be written to"):
        a.add_(1)
    layer = torch.nn.Linear(1000, 300, bias=False)
    layer.load_state_dict({"weight": a})
    assert same(layer.weight.data, value.float())
    shutil.rmtree(tmp_path)  # the files are still open
    assert same(a.materialize(), value)


def test_many_threads_share_lazy_tensors(tmp_path):
    values = {str(i): tensor(torch.bfloat16, 300, 700, seed=i) for i in range(4)}
    wcodec.torch.save_file(values, tmp_path / "a.wcodec")
    lazy = lazy_state_dict(tmp_path / "a.wcodec", threads=2)
    wrong = []

    def read(start: int) -> None:
        for i in range(12):
            name = str((start + i) % 4)
            first = 20 * i
            if not same(lazy[name].to("cpu"), values[name]):
                wrong.append(name)
            if not same(lazy[name][first:, ::3], values[name][first:, ::3]):
                wrong.append((name, first))

    threads = [threading.Thread(target=read, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
