# SPDX-License-Identifier: Apache-2.0
"""wcodec push and pull, and from_pretrained of a repository, against a stub of the hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.hub_stub import Repository, served
from support.model_directories import tree, write_model

import wcodec
from wcodec.hub import model_card

NAME = "someone/model"


@pytest.fixture
def wc(tmp_path):
    write_model(tmp_path / "source")
    wcodec.encode_checkpoint(tmp_path / "source", tmp_path / "wc")
    return tmp_path / "wc"


def run(endpoint, tmp_path, *arguments):
    """Run wcodec in a process that takes the stub for the hub."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "0",
        "no_proxy": "127.0.0.1",
    }
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


def wcodec_command(endpoint, tmp_path, *arguments):
    return run(endpoint, tmp_path, "-m", "wcodec", *arguments)


def test_push_and_pull(wc, tmp_path):
    repository = Repository(NAME)
    with served(repository) as endpoint:
        done = wcodec_command(
            endpoint, tmp_path, "push", str(wc), NAME, "--token", "hf_x", "--private"
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"{endpoint}/{NAME}/commit/{repository.sha}"
        assert repository.is_private is True
        expected = {name: data for name, data in tree(wc).items() if data is not None}
        card = model_card(wc).encode()
        assert repository.files == {**expected, "README.md": card}
        assert sum("/commit/" in path for _, path in repository.calls) == 1

        repository.files["pytorch_model.bin"] = repository.files["old.safetensors"] = b"x"
        done = wcodec_command(
            endpoint, tmp_path, "pull", NAME, "-o", str(tmp_path / "pulled"), "--json"
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["output"] == str(tmp_path / "pulled")
        pulled = tree(tmp_path / "pulled")
        assert {n: pulled.get(n) for n in expected} == {**expected, "README.md": card}
        assert not {"pytorch_model.bin", "old.safetensors"} & pulled.keys()
        done = wcodec_command(endpoint, tmp_path, "pull", NAME)
        assert (Path(done.stdout.strip()) / "model.wcodec.index.json").is_file(), done.stderr
    found = wcodec.decode_checkpoint(tmp_path / "pulled")
    original = wcodec.decode_checkpoint(wc)
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in original.items()
    }


def test_a_repository_without_wcodec_files(tmp_path):
    with served(Repository(NAME, {"config.json": b"{}", "model.safetensors": b""})) as endpoint:
        done = wcodec_command(endpoint, tmp_path, "pull", NAME)
        assert done.returncode == 1
        assert f"{NAME}: has no wcodec files" in done.stderr
        done = wcodec_command(endpoint, tmp_path, "pull", "someone/other")
        assert done.returncode == 1
        assert "404" in done.stderr
        assert "bug" not in done.stderr


def test_push_of_what_is_no_wcodec_directory(tmp_path):
    repository = Repository(NAME)
    with served(repository) as endpoint:
        done = wcodec_command(endpoint, tmp_path, "push", str(tmp_path), NAME)
    assert done.returncode == 2
    assert "has no .wcodec file" in done.stderr
    assert not repository.calls


def test_a_model_of_a_repository(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "plain")
    wcodec.encode_checkpoint(tmp_path / "plain", tmp_path / "wc")
    files = {name: data for name, data in tree(tmp_path / "wc").items() if data is not None}
    code = (
        "import wcodec, wcodec.torch, transformers\n"
        f"model = wcodec.from_pretrained(transformers.AutoModel, {NAME!r}, revision='main')\n"
        f"assert model.name_or_path == {NAME!r}\n"
        f"expected = wcodec.torch.load_file({str(tmp_path / 'plain' / 'model.safetensors')!r})\n"
        "assert all(value.equal(expected[name]) for name, value in model.state_dict().items())\n"
        f"wcodec.from_pretrained(transformers.AutoModel, {NAME!r}, local_files_only=True)\n"
    )
    with served(Repository(NAME, files)) as endpoint:
        done = run(endpoint, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr


def test_the_card(wc):
    (wc / "README.md").write_text("---\nlicense: mit\ntags:\n- x\n---\n\n# A model\n")
    text = model_card(wc)
    assert text.startswith("---\nlicense: mit\ntags:\n- wcodec\n- x\n---\n\n# A model\n\n<!-- ")
    total = wcodec.info(wc)["dtypes"][0]
    assert f"| {total['dtype']} | {total['n_layers']} | {total['n_weights']:,} |" in text
    (wc / "README.md").write_text(text)
    assert model_card(wc) == text  # the table of an earlier call is replaced
    (wc / "README.md").write_text("# A model\n")
    assert model_card(wc).startswith("---\ntags:\n- wcodec\n---\n# A model\n")
