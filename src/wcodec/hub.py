# SPDX-License-Identifier: Apache-2.0
"""Wcodec directories on the Hugging Face hub, through huggingface_hub: down into its cache or a
directory, and up in one commit with a table in the model card.
"""

from __future__ import annotations

import os
import re
from typing import Any

from wcodec.checkpoint import REDUNDANT_FILES, SOURCE_SUFFIX, SUFFIX, join, plan_decode
from wcodec.decode import Path
from wcodec.inspection import info

CARD = "README.md"
TAG = "wcodec"
_BEGIN, _END = "<!-- wcodec -->", "<!-- /wcodec -->"


def download(path: str, **arguments: Any) -> str:
    """Return `path` if that is a directory, else download the repository of this name; arguments
    are those of pull().
    """
    if os.path.isdir(path):
        return path
    if os.path.isabs(path) or path.startswith(".") or path.count("/") > 1:
        raise FileNotFoundError(f"No such file or directory: {path}")
    return pull(path, **arguments)


def pull(
    repo_id: str,
    directory: Path | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> str:
    """Download the wcodec directory of a repository; returns where it is, `directory` or the cache.

    Weights in other formats are left there. Raises FileNotFoundError for a repository without
    wcodec files, and what huggingface_hub raises.
    """
    from huggingface_hub import snapshot_download

    found: str = snapshot_download(
        repo_id,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_dir=directory,
        local_files_only=local_files_only,
        force_download=force_download,
        ignore_patterns=[*REDUNDANT_FILES, f"*{SOURCE_SUFFIX}", f"*{SOURCE_SUFFIX}.index*.json"],
    )
    if not any(name.endswith(SUFFIX) for _, _, names in os.walk(found) for name in names):
        raise FileNotFoundError(f"{repo_id}: has no wcodec files; wcodec encode makes them")
    return found


def push(
    directory: Path,
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    private: bool | None = None,
    message: str = "Add wcodec files",
) -> str:
    """Upload a wcodec directory to a repository in one commit, and make it if need be; returns the
    address of the commit.

    README.md gets a table of what is in the files, in the place of the one of an earlier call, and
    the tag "wcodec"; the directory is not changed. Raises ValueError for a directory without wcodec
    files, CorruptError where index and shards disagree, and what huggingface_hub raises.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    directory = os.fspath(directory)
    plan = plan_decode(directory)
    names = [item.source for item in (*plan.shards, *plan.copies) if item.source != CARD]
    names += [name for name in _indexes(directory) if name not in names]
    card = model_card(directory).encode("utf-8")
    api = HfApi(token=token)
    repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    operations = [CommitOperationAdd(name, join(directory, name)) for name in sorted(names)]
    done = api.create_commit(
        repo,
        [*operations, CommitOperationAdd(CARD, card)],
        commit_message=message,
        revision=revision,
    )
    return str(done.commit_url)


def _indexes(directory: str) -> list[str]:
    found = []
    for root, _, names in os.walk(directory):
        below = os.path.relpath(root, directory)
        found += [
            os.path.normpath(join(below, name))
            for name in names
            if name.endswith(".json") and f"{SUFFIX}.index" in name
        ]
    return found


def model_card(directory: Path) -> str:
    """Return the text of README.md of a wcodec directory, with a table of its tensors and how to
    load them.
    """
    path = os.path.join(directory, CARD)
    text = ""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            text = file.read()
    text = _with_tag(re.sub(rf"\n*{_BEGIN}.*?{_END}\n*", "\n", text, flags=re.S))
    return f"{text.rstrip()}\n\n{_section(info(directory))}\n"


def _with_tag(text: str) -> str:
    """The card with our tag in its YAML head."""
    match = re.match(r"---\n(.*?)\n?---\n", text, re.S)
    head, body = (match[1], text[match.end() :]) if match else ("", text)
    lines = head.split("\n") if head else []
    if f"- {TAG}" not in [line.strip() for line in lines]:
        if "tags:" in lines:
            at = lines.index("tags:") + 1
            indent = re.match(r"\s*(?=- )", lines[at]) if at < len(lines) else None
            lines.insert(at, f"{indent[0] if indent else ''}- {TAG}")
        elif not any(line.startswith("tags:") for line in lines):
            lines += ["tags:", f"- {TAG}"]
    return "---\n{}\n---\n{}".format("\n".join(lines), body)


def _section(found: dict[str, Any]) -> str:
    rows = [
        f"| {total['dtype']} | {total['n_layers']} | {total['n_weights']:,} "
        f"| {total['data_bytes']:,} | {total['bytes']:,} | {total['bits_per_weight']:.2f} |"
        for total in found["dtypes"]
        if total["n_weights"]
    ]
    lines = [
        _BEGIN,
        "## Weights in wcodec",
        "",
        f"The weights are stored losslessly by wcodec: {found['data_bytes']:,} bytes in "
        f"{found['file_bytes']:,}, ratio {found['compression_ratio']:.3f}. "
        "`wcodec.from_pretrained` loads them; `wcodec decode` gives back the safetensors files.",
        "",
        "| dtype | tensors | weights | bytes | stored | bits a weight |",
        "|---|---|---|---|---|---|",
        *rows,
        _END,
    ]
    return "\n".join(lines)
