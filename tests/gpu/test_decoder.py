# SPDX-License-Identifier: Apache-2.0
"""Whole files decoded by wcodec.cuda on an emulated device: the bits that the CPU gives, the same
errors, bounded staging memory, and what is left to the host.
"""

import numpy as np
import pytest
from support.arrays import FLOATS, float_patterns, gaussian
from support.emulated_warp import (
    STATUS_BYTES,
    STATUS_PADDING,
    STATUS_RAW,
    STATUS_STATES,
    compiler,
)
from support.golden import GOLDEN, MANIFEST, digests
from support.model_directories import write_shards
from support.spatial_blocks import smooth

torch = pytest.importorskip("torch")
if compiler() is None:
    pytest.skip("no C++20 compiler: set CXX", allow_module_level=True)
from support.emulated_device import EmulatedDevice  # noqa: E402

import wcodec  # noqa: E402
from wcodec.codec import batch  # noqa: E402
from wcodec.container import Reader  # noqa: E402
from wcodec.cuda import decoder as decoder_module  # noqa: E402
from wcodec.cuda import device as device_module  # noqa: E402
from wcodec.cuda.decoder import Decoder  # noqa: E402
from wcodec.decode import decode_budget  # noqa: E402
from wcodec.dtypes import unit_bytes  # noqa: E402
from wcodec.errors import CorruptError, DeviceError  # noqa: E402
from wcodec.torch import lazy_state_dict, load_to_torch  # noqa: E402
from wcodec.torch_tensors import typed  # noqa: E402

SIZES = (1, 127, 128, 129, 1000, 128 << 10)


@pytest.fixture
def device(monkeypatch):
    emulated = EmulatedDevice()
    monkeypatch.setattr(device_module, "open_device", lambda device: emulated)
    return emulated


def as_bytes(tensors) -> dict[str, bytes]:
    return {
        name: tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        if torch.is_tensor(tensor)
        else tensor.tobytes()
        for name, tensor in tensors.items()
    }


def many_arrays():
    arrays = {}
    for dtype in FLOATS:
        for n in SIZES[:-1]:
            for name, array in float_patterns(dtype, n).items():
                arrays[f"{dtype} {n} {name}"] = array
        arrays[f"{dtype} rows"] = gaussian(dtype, 300 * 700).reshape(300, 700)
        arrays[f"{dtype} wide"] = gaussian(dtype, 80 * 2500).reshape(80, 2500)
        arrays[f"{dtype} large"] = gaussian(dtype, SIZES[-1] + 77)
    arrays["f32 of f16"] = gaussian("F16", 90_000).astype(np.float32)
    arrays["f32 of bf16"] = gaussian("BF16", 90_000).astype(np.float32)
    arrays |= grouped_arrays()
    arrays["ints"] = np.arange(5000)
    arrays["i16"] = (gaussian("F32", 90_000) * 9000).astype(np.int16).reshape(300, 300)
    arrays["smooth i1"] = smooth("i1", 300, 700)
    arrays["smooth u2"] = smooth("u2", 90, 500)
    arrays["noise"] = np.frombuffer(np.random.default_rng(1).bytes(9999), np.uint8)
    arrays["nothing"] = np.empty((0, 4), np.float32)
    arrays["scalar"] = np.array(2.5, np.float32)
    arrays["tied"] = arrays["F32 rows"]
    return arrays


def grouped_arrays():
    """Matrices whose rows are of several kinds, which become row groups."""
    arrays = {}
    for name, rows, cols in (("groups", 700, 300), ("wide groups", 300, 2500)):
        array = gaussian("F32", rows * cols).reshape(rows, cols)
        array[::2] = array[::2].astype(np.float16)
        array[1::6] = 0
        arrays[name] = array
    return arrays


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("gpu") / "a.wcodec"
    wcodec.encode_checkpoint(many_arrays(), found)
    return found


def test_all_kinds_of_layers(path, device):
    found = wcodec.decode_checkpoint(path, device="cuda")
    expected = wcodec.decode_checkpoint(path)
    assert as_bytes(found) == as_bytes(expected)
    assert {name: tuple(t.shape) for name, t in found.items()} == {
        name: array.shape for name, array in expected.items()
    }
    assert set(device.launched) == kernels_of(path)
    assert {decoder_module.spatial_kernel(w) for w in (1, 2)} < set(device.launched)
    assert len(set(device.launched)) >= 8
    assert found["F16 rows"].dtype == torch.float16


def kernels_of(path) -> set[str]:
    """The kernels that the layers of a file need which a GPU decodes."""
    found = set()
    with Reader(path) as reader:
        for name in reader.layers:
            layer = reader.open_layer(name)
            if layer.head.family == batch.LZ:
                continue
            for header in layer.headers:
                if header["coding"] == batch.RANS16:
                    found.add(decoder_module.rans16_kernel(int(header["form"])))
                elif header["coding"] == batch.RANS32:
                    found.add(decoder_module.rans32_kernel(unit_bytes(layer.head.dtype)))
                elif header["coding"] == batch.SPATIAL:
                    found.add(decoder_module.spatial_kernel(unit_bytes(layer.head.dtype)))
                elif header["coding"] != batch.ROW_GROUPS:
                    found.add(decoder_module.COPY_KERNEL)
    return found


def test_every_way_to_load(path, device, tmp_path):
    expected = as_bytes(wcodec.decode_checkpoint(path))
    assert as_bytes(load_to_torch(path, device="cuda")) == expected
    assert as_bytes(wcodec.decode_checkpoint(path, use_gpu=True)) == expected
    launched = len(device.launched)
    lazy = lazy_state_dict(path)
    assert as_bytes({"x": lazy["F32 rows"].materialize("cuda")})["x"] == expected["F32 rows"]
    assert len(device.launched) > launched
    half = lazy["BF16 rows"].to("cuda", torch.float32)
    assert half.dtype == torch.float32
    wcodec.decode_checkpoint(path, tmp_path / "a", device="cuda:0")
    wcodec.decode_checkpoint(path, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_without_the_gpu(path, device, monkeypatch):
    # To a device that torch has; only which way is taken is of interest here.
    monkeypatch.setattr("wcodec.torch.device_for", lambda name: pytest.fail("asked for a GPU"))
    load_to_torch(path, device="cpu", use_gpu_decode=False)
    assert not device.launched


@pytest.mark.parametrize("name", MANIFEST)
def test_golden_files(name, device):
    with Reader(GOLDEN / name) as reader, Decoder(device, decode_budget(2)) as decoder:
        data = {layer: decoder.decode_named(reader, layer) for layer in reader.layers}
        decoder.finish()
        found = {layer: bytes_.numpy() for layer, bytes_ in data.items()}
    assert digests(found) == MANIFEST[name]


def test_shards(tmp_path, device):
    wcodec.encode_checkpoint(write_shards(tmp_path / "model"), tmp_path / "d")
    expected = as_bytes(load_to_torch(tmp_path / "d"))
    assert not device.launched
    assert as_bytes(load_to_torch(tmp_path / "d", "cuda:1")) == expected
    assert as_bytes(wcodec.decode_checkpoint(tmp_path / "d", device="cuda")) == expected
    assert device.launched


@pytest.mark.parametrize("slot_bytes", [3 << 14, 1 << 18])
def test_a_small_ring_goes_round(path, device, monkeypatch, slot_bytes):
    monkeypatch.setattr(decoder_module, "SLOT_BYTES", 1 << 20)
    monkeypatch.setattr(decoder_module, "CHUNK_BYTES", slot_bytes)
    found = load_to_torch(path, device="cuda")
    assert as_bytes(found) == as_bytes(wcodec.decode_checkpoint(path))
    assert device.uploaded_bytes > 3 << 20


def test_memory_beside_the_tensors(path, device, monkeypatch):
    taken = []
    empty = device.empty
    monkeypatch.setattr(device, "empty", lambda n: taken.append(n) or empty(n))
    for name in ("host_empty", "empty_for_upload"):
        monkeypatch.setattr(device, name, lambda n: taken.append(n) or empty(n))
    load_to_torch(path, device="cuda")
    with Reader(path) as reader:
        tensors = sum(entry.data_bytes for entry in reader.layers.values())
        blocks = sum(entry.n_blocks for entry in reader.layers.values())
    ring = 2 * decoder_module.N_SLOTS * decoder_module.SLOT_BYTES
    assert ring < 512 << 20
    assert sum(taken) <= tensors + ring + 16 * blocks


# ---- Parts of tensors ----

PARTS = (
    np.s_[100:200],
    np.s_[0],
    np.s_[-1, 5],
    np.s_[3:290:7],
    np.s_[:, 128:256],
    np.s_[:, 5:6],
    np.s_[17:270, 100:299],
    np.s_[[5, 3, 3, 200]],
    np.s_[[250, 7], -40:],
    np.s_[:, ::3],
    np.s_[:0],
    np.s_[...],
)


@pytest.mark.parametrize(
    "name", ["BF16 rows", "F32 rows", "groups", "wide groups", "i16", "smooth i1"]
)
def test_parts(path, device, name):
    with wcodec.safe_open(path, "pt") as on_cpu, wcodec.safe_open(path, "pt", "cuda") as on_gpu:
        whole = on_cpu.get_tensor(name)
        for part in PARTS:
            expected, found = whole[part], on_gpu.get_slice(name)[part]
            assert found.shape == expected.shape
            assert as_bytes({"x": found}) == as_bytes({"x": expected}), part
    part = load_to_torch(path, device="cuda", slices={name: np.s_[5:9, 7:]})[name]
    assert as_bytes({"x": part}) == as_bytes({"x": whole[5:9, 7:]})


def test_only_touched_blocks_are_read(path, device):
    with Reader(path) as reader:
        n_blocks = {name: len(reader.open_layer(name).headers) for name in reader.layers}
    with wcodec.safe_open(path, "pt", device="cuda") as file:
        for name in ("F32 large", "wide groups"):
            before = file.blocks_decoded
            part = file.get_slice(name)[:1]
            assert device.launched
            assert 0 < file.blocks_decoded - before < n_blocks[name]
            assert as_bytes({"x": part})["x"] == as_bytes({"x": load_to_torch(path)[name][:1]})["x"]
        before = file.blocks_decoded
        whole = file.get_tensor("wide groups")
        assert file.blocks_decoded - before <= n_blocks["wide groups"]
        assert as_bytes({"x": whole})["x"] == as_bytes(load_to_torch(path))["wide groups"]
    found = wcodec.torch.load_file(path, device="cuda")
    assert as_bytes(found) == as_bytes(load_to_torch(path))


def test_rows_apart_are_row_groups(path):
    with Reader(path) as reader:
        for name in grouped_arrays():
            assert reader.open_layer(name).head.row_groups


# ---- What is wrong ----


def flipped(path, tmp_path, layer, block, offset, seal=True):
    """A copy of a file with a bit of a block's payload flipped, sealed again or not."""
    import zlib

    data = bytearray(path.read_bytes())
    with Reader(path) as reader:
        entry = reader.layers[layer]
        opened = reader.open_layer(layer)
        first = entry.record_offset + entry.directory_offset - int(opened.offsets[-1])
        at = first + int(opened.offsets[block])
        size = int(opened.offsets[block + 1] - opened.offsets[block])
        directory = entry.record_offset + entry.directory_offset
        n_blocks = len(opened.headers)
    data[at + 16 + offset] ^= 1
    if seal:
        crc = zlib.crc32(data[at + 4 : at + size]).to_bytes(4, "little")
        data[at : at + 4] = crc
        header = directory + 16 + 16 * block
        data[header : header + 4] = crc
        end = directory + 16 + 16 * n_blocks
        end += -end % 16
        data[directory : directory + 4] = zlib.crc32(data[directory + 4 : end]).to_bytes(
            4, "little"
        )
    copy = tmp_path / "damaged.wcodec"
    copy.write_bytes(data)
    return copy


def test_a_wrong_crc(path, tmp_path, device):
    copy = flipped(path, tmp_path, "BF16 large", 0, 3000, seal=False)
    with pytest.raises(CorruptError, match="block 0 of 'BF16 large': its CRC-32 is wrong"):
        load_to_torch(copy, device="cuda")
    with pytest.raises(CorruptError, match="block 0 of 'BF16 large': its CRC-32 is wrong"):
        wcodec.decode_checkpoint(copy, device="cuda")


def load_one(path, layer):
    with wcodec.safe_open(path, "pt", device="cuda") as file:
        return file.get_tensor(layer)


@pytest.mark.parametrize(("layer", "block"), [("BF16 wide", 1), ("smooth i1", 0)])
def test_wrong_streams_that_are_sealed(path, tmp_path, device, layer, block):
    """Damage that only the kernels can see gives the error that the CPU gives."""
    seen = set()
    with Reader(path) as reader:
        size = int(reader.open_layer(layer).headers["payload_bytes"][block])
    for offset in [*range(200, size // 2, size // 23), size - 1]:
        copy = flipped(path, tmp_path, layer, block, offset)
        try:
            expected = as_bytes({"x": wcodec.decode_layer(copy, layer)})["x"]
        except CorruptError as error:
            seen.add(str(error))
            with pytest.raises(CorruptError, match=f"block {block} of '{layer}'"):
                load_one(copy, layer)
        else:  # raw bits: sealed anew they are as good as others
            assert as_bytes({"x": load_one(copy, layer)})["x"] == expected
    assert seen


def test_what_is_wrong_with_the_raw_bits_is_said():
    """By the status of a spatial block."""
    for status, words in (
        (STATUS_STATES | STATUS_RAW, "a final state is"),
        (STATUS_BYTES | STATUS_RAW, "a stream has bytes"),
        (STATUS_RAW, "its raw bits are not those"),
        (STATUS_PADDING, "padding is not zero"),
    ):
        assert f"block 3 of 'x': {words}" in str(batch.stream_error(3, "x", status))


def test_too_many_streams_are_left_to_the_host(path, device, monkeypatch):
    with Reader(path) as reader, Decoder(device, decode_budget(1)) as decoder:
        layer = reader.open_layer("F32 rows")
        layer.headers = layer.headers.copy()
        layer.headers["n_streams"] = 255
        with pytest.raises(CorruptError, match="F32 rows"):
            decoder.decode(layer)


def test_dequantising_is_for_the_cpu(path):
    with pytest.raises(ValueError, match="dequantize"):
        wcodec.decode_checkpoint(path, device="cuda", dequantize=True)


def test_no_pipes(path):
    class Pipe:
        def __init__(self, file):
            self.read = file.read

    with open(path, "rb") as file, pytest.raises(ValueError, match="pipe"):
        wcodec.decode_checkpoint(Pipe(file), device="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(path, tmp_path):
    for load in (
        lambda: load_to_torch(path, device="cuda"),
        lambda: wcodec.decode_checkpoint(path, device="cuda"),
        lambda: wcodec.decode_checkpoint(path, tmp_path / "x", use_gpu=True),
        lambda: lazy_state_dict(path)["F32 rows"].to("cuda"),
    ):
        with pytest.raises(DeviceError, match="sees no CUDA GPU"):
            load()
    assert not (tmp_path / "x").exists()


def test_a_gpu_that_cannot_decode(path, monkeypatch):
    def refuse(device):
        raise DeviceError("cuda: is of compute capability (7, 5), expected 8.0")

    monkeypatch.setattr(device_module, "open_device", refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.warns(RuntimeWarning, match="compute capability .* decoding on the CPU"):
        assert device_module.device_for("cuda") is None


def test_typed_needs_no_data():
    assert typed(torch.empty(0, dtype=torch.uint8), "F32", (0, 5)).shape == (0, 5)
