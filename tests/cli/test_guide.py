# SPDX-License-Identifier: Apache-2.0
"""Every example of docs/guide runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save_file
from support.arrays import gaussian
from support.model_directories import tree, write_shards

GUIDE = Path(__file__).parents[2] / "docs" / "guide"


def examples(document: str, language: str) -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", (GUIDE / document).read_text(), re.M | re.S)
    assert len(blocks) > 4
    return "\n".join(blocks)


@pytest.fixture
def directory(tmp_path):
    layers = {"a.weight": gaussian("F32", 5000), "a.bias": gaussian("F16", 100)}
    save_file(layers, tmp_path / "model.safetensors")
    save_file({"a.weight": gaussian("F32", 6000)}, tmp_path / "layers.safetensors")
    write_shards(tmp_path / "bert", elements=5000)
    return tmp_path


def run(directory: Path, *args: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        args,
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "PATH": path},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_command_line(directory):
    text = run(directory, "bash", "-euo", "pipefail", "-c", examples("cli.md", "sh"))
    assert "they differ" in text
    assert "(3 kept)" in text
    assert tree(directory / "bert") == tree(directory / "bert.restored")


def test_python(directory):
    run(directory, sys.executable, "-W", "error", "-c", examples("python.md", "python"))
    assert tree(directory / "bert") == tree(directory / "bert.restored")


def test_hugging_face(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.LlamaConfig(
        vocab_size=120,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "llama", max_shard_size="200KB")
    done = subprocess.run(
        [sys.executable, "-c", examples("huggingface.md", "python")],
        cwd=tmp_path,
        env={**os.environ, "WCODEC_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (found,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert tree(found) == tree(tmp_path / "llama")
