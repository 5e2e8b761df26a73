# SPDX-License-Identifier: Apache-2.0
"""Directories as model repositories have them: shards and an index as transformers'
save_pretrained(max_shard_size=...) writes them, and the other files.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from support.arrays import gaussian


def shard_name(number: int, total: int, variant: str = "") -> str:
    stem = f"model.{variant}" if variant else "model"
    return f"{stem}-{number:05}-of-{total:05}.safetensors"


def index_name(variant: str = "") -> str:
    return f"model.safetensors.index.{variant + '.' if variant else ''}json"


def write_shards(
    directory: Path, n_shards: int = 3, elements: int = 40_000, variant: str = "", seed: int = 0
) -> Path:
    """Write numbered shards with their index; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    weight_map = {}
    total_size = 0
    for number in range(1, n_shards + 1):
        tensors = {
            f"model.layers.{number}.weight": gaussian("F32", elements, seed + number),
            f"model.layers.{number}.bias": gaussian("F16", 100, seed + number),
        }
        if number == 1:
            tensors["model.embed.weight"] = gaussian("F32", elements, seed + 1)  # tied to layer 1
        name = shard_name(number, n_shards, variant)
        save_file(tensors, directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        total_size += sum(array.nbytes for array in tensors.values())
    write_index(directory / index_name(variant), weight_map, total_size)
    return directory


def write_index(path: Path, weight_map: dict[str, str], total_size: int = 0) -> None:
    """Write an index as transformers does."""
    value = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_weight_map(directory: Path) -> dict[str, str]:
    return json.loads((directory / index_name()).read_text())["weight_map"]


def write_model(directory: Path) -> Path:
    """Write a whole repository: shards, index, small files, subdirectories."""
    write_shards(directory)
    (directory / "config.json").write_text('{"model_type": "none"}\n')
    (directory / "tokenizer.json").write_bytes(np.random.default_rng(3).bytes(70_000))
    (directory / "README.md").write_text("")
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text("{}")
    (directory / "vae").mkdir()
    save_file({"w": gaussian("BF16", 5000)}, directory / "vae" / "model.safetensors")
    (directory / "empty").mkdir()
    return directory


def tree(directory: Path) -> dict[str, bytes | None]:
    """What is below a directory, links followed: bytes of files, None for directories."""
    found = {}
    for root, directories, files in os.walk(directory, followlinks=True):
        for name in directories:
            found[str((Path(root) / name).relative_to(directory))] = None
        for name in files:
            found[str((Path(root) / name).relative_to(directory))] = (
                Path(root) / name
            ).read_bytes()
    return found
