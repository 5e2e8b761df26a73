# SPDX-License-Identifier: Apache-2.0
"""transformers models through wcodec directories: the same bits and outputs as from safetensors,
by from_pretrained, by enable() and by load_wcodec_checkpoint.
"""

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # 4.x asks the hub about directories
torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from safetensors.torch import save_file  # noqa: E402
from support.model_directories import tree  # noqa: E402
from transformers import (  # noqa: E402
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    PreTrainedModel,
    T5Config,
    ViTConfig,
    modeling_utils,
)

import wcodec  # noqa: E402
import wcodec.transformers  # noqa: E402
from wcodec.torch import LazyTensor  # noqa: E402

IS_5 = int(transformers.__version__.split(".")[0]) >= 5
DTYPE = "dtype" if IS_5 else "torch_dtype"

SIZES = {
    "vocab_size": 120,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TEXT = {"input_ids": torch.arange(24).reshape(2, 12)}
CASES = {
    "llama": (
        AutoModelForCausalLM,
        LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
        TEXT,
    ),
    "mixtral": (
        AutoModelForCausalLM,
        MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=3),
        TEXT,
    ),
    "gpt2": (
        AutoModelForCausalLM,
        GPT2Config(vocab_size=120, n_embd=64, n_layer=2, n_head=4, n_positions=32),
        TEXT,
    ),
    "bert": (AutoModel, BertConfig(**SIZES, max_position_embeddings=32), TEXT),
    "t5": (
        AutoModelForSeq2SeqLM,
        T5Config(vocab_size=120, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4),
        {**TEXT, "decoder_input_ids": torch.arange(10).reshape(2, 5)},
    ),
    "vit": (
        AutoModelForImageClassification,
        ViTConfig(
            **{name: size for name, size in SIZES.items() if name != "vocab_size"},
            image_size=16,
            patch_size=4,
        ),
        {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)},
    ),
}


def build(name, dtype=torch.bfloat16):
    auto, config, _ = CASES[name]
    torch.manual_seed(1)
    return auto.from_config(config).to(dtype).eval()


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Safetensors and wcodec directories of each model, several shards each; made once."""
    made = {}

    def get(name):
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            build(name).save_pretrained(root / "plain", max_shard_size="100KB")
            wcodec.encode_checkpoint(root / "plain", root / "wc")
            assert len(list((root / "wc").glob("*.wcodec"))) > 1
            made[name] = root
        return made[name]

    return get


def outputs(name, model):
    with torch.no_grad():
        return model(**CASES[name][2])[0]


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def assert_same(name, model, expected):
    ours, theirs = model.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for key in theirs:
        assert not isinstance(ours[key], LazyTensor)
        assert ours[key].dtype == theirs[key].dtype
        assert bits(ours[key]).equal(bits(theirs[key])), key
    assert bits(outputs(name, model)).equal(bits(outputs(name, expected)))


@pytest.mark.parametrize("name", CASES)
def test_same_bits_and_outputs(directories, name):
    root, auto = directories(name), CASES[name][0]
    expected = auto.from_pretrained(root / "plain", **{DTYPE: torch.bfloat16})
    ours = wcodec.from_pretrained(auto, root / "wc", dtype=torch.bfloat16)
    assert type(ours) is type(expected)
    assert_same(name, ours, expected)
    direct = wcodec.from_pretrained(type(expected), root / "wc", dtype=torch.bfloat16)
    assert_same(name, direct, expected)
    with wcodec.transformers.enabled():
        assert_same(name, auto.from_pretrained(root / "wc", **{DTYPE: torch.bfloat16}), expected)


@pytest.mark.parametrize("name", CASES)
def test_checkpoint_into_a_model(directories, name):
    expected = build(name)
    model = CASES[name][0].from_config(CASES[name][1]).to(torch.bfloat16).eval()
    result = wcodec.load_wcodec_checkpoint(model, directories(name) / "wc")
    assert result == ([], [], [])
    assert_same(name, model, expected)


def test_shapes_that_differ_from_a_model(directories):
    for name in ("mixtral", "llama"):
        auto, config, _ = CASES[name]
        config = type(config)(**{**config.to_dict(), "num_key_value_heads": 4})
        model = auto.from_config(config)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(RuntimeError, match=r"mismatch"):
            wcodec.load_wcodec_checkpoint(model, directories(name) / "wc")
        assert all(value.equal(before[key]) for key, value in model.state_dict().items())
        result = wcodec.load_wcodec_checkpoint(model, directories(name) / "wc", strict=False)
        assert len(result.mismatched_keys) == 4  # keys and values of two layers
        assert not result.missing_keys


def test_tied_weights_are_decoded_once(directories, monkeypatch):
    decoded = []
    materialize = LazyTensor.materialize

    def counting(self, device=None, dtype=None):
        decoded.append((self._entry.name, torch.device(device or "cpu").type, dtype))
        return materialize(self, device, dtype)

    monkeypatch.setattr(LazyTensor, "materialize", counting)
    model = wcodec.from_pretrained(AutoModelForCausalLM, directories("llama") / "wc")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    names = [name for name, _, _ in decoded]
    assert len(names) == len(set(names))
    assert "lm_head.weight" not in names


def test_what_comes_beside_the_weights(directories, tmp_path):
    model = build("llama")
    model.generation_config.max_new_tokens = 7
    wcodec.transformers.save_pretrained(model, tmp_path / "wc")
    ours, info = wcodec.from_pretrained(
        AutoModelForCausalLM, tmp_path / "wc", output_loading_info=True
    )
    assert ours.generation_config.max_new_tokens == 7
    assert ours.name_or_path == ours.config.name_or_path == str(tmp_path / "wc")
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not ours.training
    (tmp_path / "wc" / "generation_config.json").unlink()
    ours = wcodec.from_pretrained(AutoModelForCausalLM, tmp_path / "wc")
    assert ours.generation_config.eos_token_id == model.config.eos_token_id


def test_dtype_device_and_head(directories):
    root = directories("llama")
    plain, wc = root / "plain", root / "wc"
    arguments = {DTYPE: torch.float16, "device_map": {"": "cpu"}}
    expected = AutoModelForCausalLM.from_pretrained(plain, **arguments)
    ours = wcodec.from_pretrained(
        AutoModelForCausalLM, wc, dtype=torch.float16, device_map={"": "cpu"}
    )
    assert_same("llama", ours, expected)
    ours = wcodec.from_pretrained(AutoModelForCausalLM, wc, dtype="auto")
    assert ours.dtype == torch.bfloat16
    ours = wcodec.from_pretrained(AutoModel, wc, dtype="auto")  # without its head
    assert_same("llama", ours, AutoModel.from_pretrained(plain, **{DTYPE: "auto"}))


def test_weights_on_disk(directories, tmp_path, monkeypatch):
    monkeypatch.setenv("WCODEC_CACHE", str(tmp_path / "cache"))
    root = directories("mixtral")
    device_map = {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu"}
    device_map |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    ours = wcodec.from_pretrained(
        AutoModelForCausalLM,
        root / "wc",
        dtype=torch.bfloat16,
        device_map=device_map,
        offload_folder=tmp_path / "offload",
    )
    assert next(ours.model.layers[0].parameters()).is_meta
    expected = AutoModelForCausalLM.from_pretrained(root / "plain", **{DTYPE: torch.bfloat16})
    assert bits(outputs("mixtral", ours)).equal(bits(outputs("mixtral", expected)))


def test_enable_is_one_reversible_patch(directories):
    root = directories("bert")
    stock = PreTrainedModel.__dict__["from_pretrained"]
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModel.from_pretrained(root / "wc")
    wcodec.transformers.enable()
    wcodec.transformers.enable()
    with wcodec.transformers.enabled():
        AutoModel.from_pretrained(root / "wc")
    AutoModel.from_pretrained(root / "wc")
    AutoModel.from_pretrained(root / "plain")
    wcodec.transformers.disable()
    assert PreTrainedModel.__dict__["from_pretrained"] is stock
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModel.from_pretrained(root / "wc")
    with pytest.raises(ZeroDivisionError), wcodec.transformers.enabled():
        raise ZeroDivisionError
    assert PreTrainedModel.__dict__["from_pretrained"] is stock


def test_save_pretrained_holds_what_transformers_writes(directories, tmp_path):
    model = build("mixtral")
    statistics = wcodec.transformers.save_pretrained(
        model, tmp_path / "wc", max_shard_size="100KB", level="default"
    )
    assert len(statistics["files"]) > 1
    assert [path.name for path in tmp_path.iterdir()] == ["wc"]
    wcodec.decode_checkpoint(tmp_path / "wc", tmp_path / "plain")
    assert tree(tmp_path / "plain") == tree(directories("mixtral") / "plain")


def test_save_pretrained_writes_no_safetensors_file(tmp_path, monkeypatch):
    """Nor another thread's shard, which is written as ever meanwhile."""
    written = []

    def refuse(tensors, filename, metadata=None):
        written.append(os.path.basename(filename))

    monkeypatch.setattr(modeling_utils, "safe_save_file", refuse)
    model, other = build("llama"), build("llama")
    original = model.save_pretrained

    def save_both(directory, **kwargs):
        thread = threading.Thread(target=other.save_pretrained, args=(tmp_path / "other",))
        thread.start()
        thread.join()
        original(directory, **kwargs)

    model.save_pretrained = save_both
    wcodec.transformers.save_pretrained(model, tmp_path / "wc", max_shard_size="60KB")
    assert written == ["model.safetensors"]
    assert modeling_utils.safe_save_file is refuse
    assert len(list((tmp_path / "wc").glob("model-*.wcodec"))) == 3


def test_save_pretrained_of_a_class_that_writes_its_own_shards(tmp_path):
    class Model:
        def save_pretrained(self, directory):
            Path(directory, "config.json").write_text("{}")
            save_file({"a": torch.arange(9.0)}, Path(directory, "own.safetensors"))

    wcodec.transformers.save_pretrained(Model(), tmp_path / "wc")
    assert sorted(os.listdir(tmp_path / "wc")) == ["config.json", "own.wcodec"]
    assert wcodec.load_to_torch(tmp_path / "wc")["a"].equal(torch.arange(9.0))


def test_save_pretrained_that_fails(tmp_path):
    model = build("llama")
    with pytest.raises(ValueError, match=r"use wcodec\.hub\.push"):
        wcodec.transformers.save_pretrained(model, tmp_path / "wc", push_to_hub=True)
    save = modeling_utils.safe_save_file
    with pytest.raises(ValueError, match="level is 'best'"):
        wcodec.transformers.save_pretrained(model, tmp_path / "wc", level="best")
    assert modeling_utils.safe_save_file is save
    assert not list(tmp_path.iterdir())


@pytest.fixture
def copy_of_llama(directories, tmp_path):
    wcodec.transformers.save_pretrained(build("llama"), tmp_path / "wc", max_shard_size="60KB")
    return tmp_path / "wc"


def test_a_damaged_block(copy_of_llama):
    shard = copy_of_llama / "model-00002-of-00003.wcodec"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(wcodec.CorruptError, match=r"block \d+ of 'model\.layers"):
        wcodec.from_pretrained(AutoModelForCausalLM, copy_of_llama)


def test_a_missing_shard(copy_of_llama):
    (copy_of_llama / "model-00002-of-00003.wcodec").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00003"):
        wcodec.from_pretrained(AutoModelForCausalLM, copy_of_llama)
    missing = pytest.raises(FileNotFoundError, match="model-00002-of-00003")
    with missing, wcodec.transformers.enabled():
        AutoModelForCausalLM.from_pretrained(copy_of_llama)


def test_a_directory_without_wcodec_files(directories, tmp_path):
    for path in (directories("bert") / "plain", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"expected model\.wcodec or"):
            wcodec.from_pretrained(AutoModel, path)
    with pytest.raises(FileNotFoundError, match="No such file"):
        wcodec.from_pretrained(AutoModel, tmp_path / "nothing")


def test_shapes_that_differ(copy_of_llama):
    config = json.loads((copy_of_llama / "config.json").read_text())
    (copy_of_llama / "config.json").write_text(json.dumps({**config, "intermediate_size": 80}))
    with pytest.raises(RuntimeError, match=r"mismatch|size"):
        wcodec.from_pretrained(AutoModelForCausalLM, copy_of_llama)
    wcodec.from_pretrained(AutoModelForCausalLM, copy_of_llama, ignore_mismatched_sizes=True)


def test_an_old_transformers(monkeypatch):
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.46.3")
    spec = importlib.util.spec_from_file_location("again", wcodec.transformers.__file__)
    with pytest.raises(ImportError, match=r"4\.46\.3 is installed, expected 4\.51 or newer"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.slow
@pytest.mark.skipif(
    "WCODEC_OLD_TRANSFORMERS" not in os.environ, reason="WCODEC_OLD_TRANSFORMERS names no directory"
)
def test_the_oldest_transformers():
    """All tests of this file, in a process that finds transformers 4.51 first."""
    directory = os.path.abspath(os.environ["WCODEC_OLD_TRANSFORMERS"])
    environment = {**os.environ, "PYTHONPATH": directory}
    del environment["WCODEC_OLD_TRANSFORMERS"]
    code = "import transformers; print(transformers.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("4.51.")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.skipif("WCODEC_MINILM" not in os.environ, reason="WCODEC_MINILM names no directory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_minilm(tmp_path, dtype):
    """A real BertModel."""
    tokens = {"input_ids": torch.arange(1000, 1064).reshape(4, 16)}
    source = AutoModel.from_pretrained(os.environ["WCODEC_MINILM"], **{DTYPE: dtype})
    source.save_pretrained(tmp_path / "plain")
    wcodec.encode_checkpoint(tmp_path / "plain", tmp_path / "wc")
    expected = AutoModel.from_pretrained(tmp_path / "plain", **{DTYPE: dtype})
    ours = [wcodec.from_pretrained(AutoModel, tmp_path / "wc", dtype=dtype)]
    with wcodec.transformers.enabled():
        ours.append(AutoModel.from_pretrained(tmp_path / "wc", **{DTYPE: dtype}))
    ours.append(AutoModel.from_config(source.config).to(dtype).eval())
    wcodec.load_wcodec_checkpoint(ours[-1], tmp_path / "wc")
    with torch.no_grad():
        for model in ours:
            assert bits(model(**tokens)[0]).equal(bits(expected(**tokens)[0]))
