# SPDX-License-Identifier: Apache-2.0
"""Load and save transformers models as wcodec directories.

A model class gets its weights through the public `state_dict=` argument of its from_pretrained, as
LazyTensors: transformers renames, converts, shards and places them as it does with a safetensors
file, and each is decoded once, when its device and dtype are known. Where transformers must see
files (disk offload and quantising of 4.x), the directory is materialized instead.

Auto classes find the model class of a directory by themselves and then call the from_pretrained of
PreTrainedModel. That one public method is wrapped while enable() is on, and during a call of our
own from_pretrained; the wrapper hands everything but wcodec directories on. Saving lets the model's
own save_pretrained run, with the function that writes a shard replaced for the time.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import GenerationConfig, PreTrainedModel, modeling_utils

from wcodec.checkpoint import model_names, plan_encode
from wcodec.directories import convert_directory
from wcodec.encode import encode_checkpoint
from wcodec.hub import download
from wcodec.originals import materialize
from wcodec.progress import Progress
from wcodec.torch import checked, lazy_state_dict

__all__ = ["disable", "enable", "enabled", "from_pretrained", "save_pretrained"]

MIN_VERSION = (4, 51)
Path = str | os.PathLike[str]

_VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
if _VERSION < MIN_VERSION:
    raise ImportError(
        f"wcodec.transformers: transformers {transformers.__version__} is installed, expected "
        f"{'.'.join(map(str, MIN_VERSION))} or newer"
    )
_DTYPE = "dtype" if _VERSION >= (4, 56) else "torch_dtype"


def from_pretrained(
    model_class: Any, pretrained_model_name_or_path: Path, *model_args: Any, **kwargs: Any
) -> Any:
    """Load a wcodec directory, or a repository of the hub that is one, into a transformers model.

    `model_class` is a model class or an Auto class (AutoModelForCausalLM ...); everything else is
    as for its own from_pretrained: `dtype`, `device_map`, `max_memory`, `offload_folder`, `config`,
    `subfolder`, `variant`; `revision`, `token`, `cache_dir`, `local_files_only` and
    `force_download` of a repository. Raises FileNotFoundError where there are no wcodec files,
    CorruptError (naming layer and block) for damaged ones, and what transformers raises.
    """
    path = os.fspath(pretrained_model_name_or_path)
    directory = download(path, **_taken(kwargs, _HUB_ARGUMENTS))
    folder = os.path.join(directory, kwargs.pop("subfolder", None) or "")
    if not _has_model(folder, variant := kwargs.get("variant")):
        raise FileNotFoundError(
            f"{path}: has no wcodec files, expected {' or '.join(model_names(variant))}; "
            "wcodec encode makes them of a directory of safetensors files"
        )
    if "dtype" in kwargs:
        kwargs[_DTYPE] = kwargs.pop("dtype")
    with enabled():
        found = model_class.from_pretrained(folder, *model_args, **kwargs)
    _name(found[0] if isinstance(found, tuple) else found, path)
    return found


_HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download")


def _taken(kwargs: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: kwargs.pop(name) for name in names if name in kwargs}


# ---- The one patch ----


class _Patch:
    """How many want the wrapper, and the method that it wraps."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.n_users = 0
        self.by_hand = False
        self.wrapped: Any = None
        self.wrapper: Any = None

    def change(self, users: int, by_hand: bool | None = None) -> None:
        with self.lock:
            self.n_users += users
            self.by_hand = self.by_hand if by_hand is None else by_hand
            wanted = self.by_hand or self.n_users > 0
            current = PreTrainedModel.__dict__["from_pretrained"]
            if wanted and current is not self.wrapper:
                self.wrapped, self.wrapper = current, _wrap(current)
                PreTrainedModel.from_pretrained = self.wrapper
            elif not wanted and current is self.wrapper:
                PreTrainedModel.from_pretrained = self.wrapped
                self.wrapper = self.wrapped = None


_PATCH = _Patch()


def enable() -> None:
    """Let every from_pretrained of transformers load wcodec directories, until disable()."""
    _PATCH.change(0, by_hand=True)


def disable() -> None:
    """Undo enable()."""
    _PATCH.change(0, by_hand=False)


@contextmanager
def enabled() -> Iterator[None]:
    """Do within a `with` block what enable() does."""
    _PATCH.change(1)
    try:
        yield
    finally:
        _PATCH.change(-1)


def _wrap(method: Any) -> Any:
    def from_pretrained(
        cls: Any, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any
    ) -> Any:
        load = method.__get__(None, cls)
        path = pretrained_model_name_or_path
        if _PATCH.by_hand or _PATCH.n_users:
            folder = _wcodec_folder(path, kwargs)
            if folder is not None:
                return _load(cls, load, folder, args, kwargs)
        return load(path, *args, **kwargs)

    return classmethod(from_pretrained)


def _wcodec_folder(path: Any, kwargs: dict[str, Any]) -> str | None:
    """The directory of the wcodec files that are meant, if such are meant."""
    if not isinstance(path, str | os.PathLike) or kwargs.get("state_dict") is not None:
        return None
    folder = os.path.join(path, kwargs.get("subfolder") or "")
    is_model = _has_model(folder, kwargs.get("variant")) and not kwargs.get("gguf_file")
    return folder if is_model else None


def _has_model(folder: str, variant: str | None) -> bool:
    return any(os.path.isfile(os.path.join(folder, name)) for name in model_names(variant))


def _load(cls: Any, load: Any, folder: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Load the wcodec files in a folder, in the place of PreTrainedModel.from_pretrained."""
    if _VERSION < (5, 0) and _needs_files(kwargs):
        folder = materialize(folder)
        return load(folder, *args, **{**kwargs, "subfolder": ""})
    kwargs = {name: value for name, value in kwargs.items() if name not in _OF_FILES}
    variant = kwargs.pop("variant", None)
    if kwargs.get("config") is None:
        kwargs["config"] = folder
    lazy = lazy_state_dict(folder, variant=variant)
    found = load(None, *args, state_dict=lazy, **kwargs)
    model = found[0] if isinstance(found, tuple) else found
    _name(model, folder)
    if model.can_generate() and kwargs.get("generation_config") is None:
        model.generation_config = _generation_config(folder)
    return found


# Arguments about where files come from, which is settled.
_OF_FILES = {*_HUB_ARGUMENTS, "subfolder", "use_safetensors", "adapter_kwargs", "_commit_hash"}


def _needs_files(kwargs: dict[str, Any]) -> bool:
    return any(kwargs.get(name) is not None for name in ("offload_folder", "quantization_config"))


def _generation_config(folder: str) -> Any:
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:  # as transformers: what stands in config.json
        return GenerationConfig.from_pretrained(
            folder, config_file_name="config.json", _from_model_config=True
        )


def _name(model: torch.nn.Module, name: str) -> None:
    """What from_pretrained writes down and cannot know without a path."""
    model.name_or_path = model.config.name_or_path = name


# ---- Saving ----


def save_pretrained(
    model: Any,
    save_directory: Path,
    *,
    level: str = "default",
    threads: int | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Save a model, its config and its generation config as a wcodec directory.

    `kwargs` are those of the model's save_pretrained: `max_shard_size`, `variant`, `state_dict`
    ..., but not `push_to_hub` (wcodec.hub.push does that). Each tensor is encoded from where it
    lies; no safetensors file is written, unless the model's class writes one by ways of its own.
    Returns what encode_checkpoint returns for a directory and raises what it and the model's
    save_pretrained raise.
    """
    if kwargs.get("push_to_hub"):
        raise ValueError("push_to_hub would push unfinished files; use wcodec.hub.push")
    started = time.perf_counter()
    target = os.path.abspath(save_directory)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wcodec-", dir=os.path.dirname(target)) as saved:
        with _ShardEncoder(level, threads) as encoder:
            model.save_pretrained(saved, **kwargs)
        data_bytes = {os.path.relpath(path, saved): n for path, n in encoder.data_bytes.items()}
        plan = plan_encode(saved, encoded=data_bytes)
        items = [i._replace(n_bytes=data_bytes.get(i.source, i.n_bytes)) for i in plan.shards]

        def convert(source: str, target: str, progress: Progress | None) -> int:
            if source not in encoder.data_bytes:
                return int(encoder.encode(source, target)["output_bytes"])
            os.replace(source, target)
            return os.path.getsize(target)

        statistics = convert_directory(
            plan._replace(shards=items),
            target,
            convert,
            matches=lambda *_: False,
            resume=False,
            progress=None,
        )
    ratio = statistics["input_bytes"] / statistics["output_bytes"]
    return {**statistics, "compression_ratio": ratio, "seconds": time.perf_counter() - started}


class _ShardEncoder:
    """In a `with` block, the shards that transformers saves on this thread are encoded instead,
    under the names that it gives them; `data_bytes` maps their paths to the sizes of their tensors.

    transformers writes every shard by one function of modeling_utils, which is replaced meanwhile;
    one block at a time. Where that function is gone, plain shards appear.
    """

    _NAME = "safe_save_file"
    _lock = threading.Lock()

    def __init__(self, level: str, threads: int | None) -> None:
        self._options: dict[str, Any] = {"level": level, "threads": threads}
        self._original: Any = None
        self._thread = 0
        self.data_bytes: dict[str, int] = {}

    def encode(self, source: Any, target: str, **options: Any) -> dict[str, Any]:
        """encode_checkpoint with the options of the block."""
        return encode_checkpoint(source, target, **self._options, **options)

    def __enter__(self) -> _ShardEncoder:
        self._lock.acquire()
        self._thread = threading.get_ident()
        self._original = getattr(modeling_utils, self._NAME, None)
        if self._original is not None:
            setattr(modeling_utils, self._NAME, self._save)
        return self

    def __exit__(self, *_: object) -> None:
        if self._original is not None:
            setattr(modeling_utils, self._NAME, self._original)
        self._lock.release()

    def _save(self, tensors: Any, filename: Any, metadata: Any = None) -> None:
        if threading.get_ident() != self._thread:
            self._original(tensors, filename, metadata=metadata)
            return
        statistics = self.encode(checked(tensors), filename, metadata=metadata)
        self.data_bytes[os.fspath(filename)] = statistics["input_bytes"]
