# SPDX-License-Identifier: Apache-2.0
"""A checkpoint as a directory: its shards, its index, its other files. Plans only: nothing is
written here.

A directory of safetensors files and the wcodec directory made of it differ in the names of the
shards and in the index, `model.safetensors.index.json` or `model.wcodec.index.json`. That of a
wcodec directory is the source's with the new names, and holds the source's own bytes, base64,
under metadata.wcodec.source_index. Names in an index are untrusted: each must be a shard of the
directory, and hold the tensors that the index says.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

from wcodec import strict_json
from wcodec.container import Reader
from wcodec.errors import CorruptError, WcodecError
from wcodec.limits import ReadLimits
from wcodec.publication import is_temporary
from wcodec.safetensors_file import SafetensorsFile

SOURCE_SUFFIX = ".safetensors"
SUFFIX = ".wcodec"

# The same weights once more, in the formats that model repositories carry beside safetensors.
REDUNDANT_FILES = (
    "pytorch_model*.bin",
    "pytorch_model*.bin.index*.json",
    "*.gguf",
    "*.onnx",
    "*.msgpack",
    "*.h5",
)
# What git and the hub's downloader keep for themselves.
REDUNDANT_DIRECTORIES = (".git", ".cache")

_INDEX = r"(?P<stem>.+)(?P<suffix>\.safetensors|\.wcodec)\.index(?P<variant>\..+)?\.json"
# model-00001-of-00005, model.fp16-00001-of-00005 and model-00001-of-00005.fp16, as transformers
# and diffusers name them.
_SHARD = r"(?P<stem>.+)-(?P<number>\d{5,6})-of-(?P<total>\d{5,6})(?P<variant>\.[^.]+)?"
_WEIGHT_MAP, _METADATA, _OURS, _SOURCE_INDEX = "weight_map", "metadata", "wcodec", "source_index"
_TOTAL_SIZE = "total_size"


class Item(NamedTuple):
    """A file of a directory and what it becomes: paths below the one and the other directory, and
    its size in bytes.
    """

    source: str
    target: str
    n_bytes: int


class CheckpointPlan(NamedTuple):
    """What a directory becomes: `shards` are converted, `copies` copied, `indexes` (target and
    content) written last, `directories` made first, parents before children. `left_out` names what
    has no place in the result; `broken` maps shards that cannot be opened to the reason.
    """

    source: str
    shards: list[Item]
    copies: list[Item]
    indexes: list[tuple[str, bytes]]
    directories: list[str]
    left_out: list[str]
    broken: dict[str, Exception]

    def targets(self) -> set[str]:
        """The paths of all files of the result."""
        items = [item.target for item in (*self.shards, *self.copies)]
        return {*items, *(target for target, _ in self.indexes)}


Names = Callable[[str], Collection[str]]


def plan_encode(
    directory: str, *, all_files: bool = False, encoded: Collection[str] = ()
) -> CheckpointPlan:
    """Plan a wcodec directory of a directory of safetensors files.

    With `all_files` redundant weight files are copied, too. `encoded` are shards, by their paths
    below the directory, that hold wcodec bytes already under the names of the safetensors files
    that they stand for. Raises CorruptError where index and shards disagree, ValueError for a
    directory without safetensors files, with wcodec files or with what is neither file nor
    directory, OSError.
    """
    listing = _list(directory, all_files)
    for path in listing.files:
        match = re.fullmatch(_INDEX, os.path.basename(path))
        if path.endswith(SUFFIX) or (match and match["suffix"] == SUFFIX):
            raise ValueError(
                f"{join(directory, path)}: is a wcodec file already, expected none among the "
                "files to encode"
            )

    def names(path: str) -> Collection[str]:
        return _layer_names(path) if path in already else _tensor_names(path)

    already = {join(directory, path) for path in encoded}
    return _plan(directory, listing, SOURCE_SUFFIX, SUFFIX, names)


def plan_decode(directory: str, limits: ReadLimits | None = None) -> CheckpointPlan:
    """Plan the directory that a wcodec directory was made of; the mirror of plan_encode()."""

    names = partial(_layer_names, limits=limits)
    return _plan(directory, _list(directory, True), SUFFIX, SOURCE_SUFFIX, names)


class ShardEdit(NamedTuple):
    """What changes in a shard: names of layers removed and added, by how many bytes its tensors
    grow, and how many layers it has then.
    """

    removed: Collection[str]
    added: Collection[str]
    growth: int
    n_layers: int


def plan_edit(
    directory: str, edits: Mapping[str, ShardEdit], limits: ReadLimits | None = None
) -> CheckpointPlan:
    """Plan a wcodec directory like `directory` whose shards have been edited, by their paths below
    it. A shard that an index named and that has no layers then is left out.

    Raises what plan_decode() raises, and ValueError for layers added to a directory where several
    indexes, or shards without one, leave open which model they belong to.
    """
    plan = plan_decode(directory, limits)
    if any(edit.added for edit in edits.values()) and len(plan.indexes or plan.shards) > 1:
        raise ValueError(f"{directory}: holds several models; add layers to one of its files")
    indexes, empty = [], set()
    for target, content in plan.indexes:
        where = join(directory, target)
        match = re.fullmatch(_INDEX, os.path.basename(target))
        assert match is not None
        folder = os.path.dirname(target)
        name = f"{match['stem']}{SUFFIX}.index{match['variant'] or ''}.json"
        edited, now_empty = _edit_index(content, folder, edits, where)
        indexes.append((join(folder, name), encode_index(edited, where)))
        empty |= now_empty
    shards = [Item(i.source, i.source, i.n_bytes) for i in plan.shards if i.source not in empty]
    left_out = [*plan.left_out, *sorted(empty)]
    return plan._replace(shards=shards, indexes=indexes, left_out=left_out)


def edit_indexes(
    plan: CheckpointPlan, edits: Mapping[str, ShardEdit], *, encoded: bool
) -> CheckpointPlan:
    """The plan with indexes that fit edited shards, by their paths in the wcodec directory; with
    `encoded` they are those of a wcodec directory.
    """
    indexes = []
    for target, content in plan.indexes:
        where = join(plan.source, target)
        source = decode_index(content, where) if encoded else content
        edited, _ = _edit_index(source, os.path.dirname(target), edits, where)
        indexes.append((target, encode_index(edited, where) if encoded else edited))
    return plan._replace(indexes=indexes)


def _edit_index(
    content: bytes, folder: str, edits: Mapping[str, ShardEdit], where: str
) -> tuple[bytes, set[str]]:
    """A source's index with these edits, and the shards that it names no longer."""
    value = strict_json.parse(content, where)
    weight_map, metadata = value[_WEIGHT_MAP], value.get(_METADATA) or {}
    shards = {
        join(folder, name).removesuffix(SOURCE_SUFFIX) + SUFFIX: name
        for name in weight_map.values()
    }
    named = shards.keys() & edits.keys()
    for shard in sorted(named):
        edit = edits[shard]
        for tensor in edit.removed:
            weight_map.pop(tensor, None)
        weight_map.update(dict.fromkeys(edit.added, shards[shard]))
        if isinstance(metadata.get(_TOTAL_SIZE), int):
            metadata[_TOTAL_SIZE] += edit.growth
    if named:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        content = text.encode("utf-8") + b"\n"
    return content, {shard for shard in named if not edits[shard].n_layers}


def _layer_names(path: str, limits: ReadLimits | None = None) -> Collection[str]:
    with Reader(path, limits=limits) as reader:
        return set(reader.layers)


def _tensor_names(path: str) -> Collection[str]:
    with SafetensorsFile(path) as file:
        return {tensor.name for tensor in file.tensors}


def _plan(
    directory: str, listing: _Listing, from_suffix: str, to_suffix: str, names: Names
) -> CheckpointPlan:
    shards, copies, indexes = [], [], []
    for path, n_bytes in listing.files.items():
        match = re.fullmatch(_INDEX, os.path.basename(path))
        if path.endswith(from_suffix):
            shards.append(Item(path, path.removesuffix(from_suffix) + to_suffix, n_bytes))
        elif match and match["suffix"] == from_suffix:
            indexes.append(_read_index(directory, path, from_suffix))
        else:
            copies.append(Item(path, path, n_bytes))
    if not shards:
        raise ValueError(f"{directory}: has no {from_suffix} file, expected at least one")
    plan = CheckpointPlan(
        directory,
        shards,
        copies,
        [(index.target, index.content) for index in indexes],
        listing.directories,
        listing.left_out,
        {},
    )
    _check_targets(plan)
    holds = _open_all(plan, names)
    for index in indexes:
        _check_index(index, holds)
    _check_numbers(directory, holds, indexes, from_suffix)
    return plan


def _check_targets(plan: CheckpointPlan) -> None:
    sources: dict[str, str] = {}
    for item in (*plan.shards, *plan.copies, *(Item(t, t, 0) for t, _ in plan.indexes)):
        if item.target in sources:
            raise ValueError(
                f"{plan.source}: {sources[item.target]!r} and {item.source!r} would both become "
                f"{item.target!r}"
            )
        sources[item.target] = item.source


def _open_all(plan: CheckpointPlan, names: Names) -> Holdings:
    """The tensors of each shard; those of a shard that cannot be opened are unknown."""
    holds: dict[str, Collection[str] | None] = {}
    for item in plan.shards:
        try:
            holds[item.source] = names(join(plan.source, item.source))
        except (WcodecError, OSError) as error:
            plan.broken[item.source] = error
            holds[item.source] = None
    return holds


# ---- The model of a directory ----


def model_files(directory: str, variant: str | None = None) -> tuple[list[str], str | None]:
    """Find the wcodec files of the model in a directory: their names, and that of their index if
    there is one.

    As transformers does: model.wcodec, else the shards of model.wcodec.index.json; `variant` stands
    behind "model" or "index". Else the only wcodec file, or the only index, of the directory.

    Raises FileNotFoundError for none and for a missing shard, ValueError for several,
    CorruptError for an index that is none.
    """
    names = sorted(os.listdir(directory))
    wanted = model_names(variant)
    found = [name for name in wanted if name in names]
    if not found and not variant:
        indexes = [n for n in names if n.endswith(".json") and f"{SUFFIX}.index" in n]
        found = indexes or [name for name in names if name.endswith(SUFFIX)]
        if len(found) > 1:
            raise ValueError(f"{directory}: has {', '.join(found[:5])}; name one of the files")
    if not found:
        raise FileNotFoundError(
            f"{directory}: has no wcodec files, expected {wanted[0]} or {wanted[1]}; "
            "wcodec encode makes them of a directory of safetensors files"
        )
    if found[0].endswith(SUFFIX):
        return [found[0]], None
    shards = sorted(set(_read_index(directory, found[0], SUFFIX).shards.values()))
    for shard in shards:
        if not os.path.isfile(join(directory, shard)):
            where = join(directory, found[0])
            raise FileNotFoundError(f"{where}: names {shard!r:.200}, which is not in the directory")
    return shards, found[0]


def model_names(variant: str | None = None) -> tuple[str, str]:
    """The names that transformers' own have as wcodec files: of the only file, and of the index."""
    behind = f".{variant}" if variant else ""
    return f"model{behind}{SUFFIX}", f"model{SUFFIX}.index{behind}.json"


def check_model_index(directory: str, index: str, holds: Holdings) -> None:
    """Raise CorruptError unless every tensor that an index names is in the shard it says."""
    _check_index(_read_index(directory, index, SUFFIX), holds)


# ---- Files ----


class _Listing(NamedTuple):
    """What is below a directory: sizes of files by path, directories, and what is left out."""

    files: dict[str, int]
    directories: list[str]
    left_out: list[str]


def _list(directory: str, all_files: bool) -> _Listing:
    """List what is below a directory, by name; links are followed."""
    if not os.path.isdir(directory):
        raise NotADirectoryError(20, "is not a directory", directory)
    listing = _Listing({}, [], [])
    _list_into(listing, directory, "", all_files, ())
    return listing


def _list_into(
    listing: _Listing, root: str, below: str, all_files: bool, parents: tuple[str, ...]
) -> None:
    here = os.path.realpath(join(root, below))
    if here in parents:
        raise ValueError(f"{join(root, below)}: is a link to a directory that it is in")
    for name in sorted(os.listdir(join(root, below))):
        path = join(below, name)
        mode = _status(join(root, path)).st_mode
        if is_temporary(name):
            continue
        if not all_files and _is_redundant(name, stat.S_ISDIR(mode)):
            listing.left_out.append(path)
        elif stat.S_ISDIR(mode):
            listing.directories.append(path)
            _list_into(listing, root, path, all_files, (*parents, here))
        elif stat.S_ISREG(mode):
            listing.files[path] = _status(join(root, path)).st_size
        else:
            raise ValueError(f"{join(root, path)}: is neither a file nor a directory")


def _status(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError:
        raise FileNotFoundError(2, "is a link to nothing", path) from None


def _is_redundant(name: str, is_directory: bool) -> bool:
    if is_directory:
        return name in REDUNDANT_DIRECTORIES
    return any(fnmatchcase(name, pattern) for pattern in REDUNDANT_FILES)


def join(directory: str, path: str) -> str:
    """The path of what is at `path` below `directory`."""
    return os.path.join(directory, path) if directory and path else directory or path


# ---- Index ----

# Tensor names by shard, None where the shard cannot be opened.
Holdings = Mapping[str, Collection[str] | None]


class _Index(NamedTuple):
    """An index: where it is, what it becomes, and which tensor it says is in which shard (paths
    below the directory).
    """

    path: str
    target: str
    content: bytes
    shards: dict[str, str]


def _read_index(directory: str, path: str, suffix: str) -> _Index:
    full = join(directory, path)
    with open(full, "rb") as file:
        data = file.read()
    encode = suffix == SOURCE_SUFFIX
    content = encode_index(data, full) if encode else decode_index(data, full)
    folder = os.path.dirname(path)
    shards = {
        tensor: join(folder, name) for tensor, name in _parse_index(data, suffix, full).items()
    }
    match = re.fullmatch(_INDEX, os.path.basename(path))
    assert match is not None
    to_suffix = SUFFIX if encode else SOURCE_SUFFIX
    target = f"{match['stem']}{to_suffix}.index{match['variant'] or ''}.json"
    return _Index(full, join(folder, target), content, shards)


def encode_index(data: bytes, where: str) -> bytes:
    """Return the index of the wcodec directory for `data`, that of the source. Raises
    CorruptError.
    """
    weight_map = _parse_index(data, SOURCE_SUFFIX, where)
    value = strict_json.parse(data, where)
    source_index = base64.b64encode(data).decode("ascii")
    value[_METADATA] = {**(value.get(_METADATA) or {}), _OURS: {_SOURCE_INDEX: source_index}}
    value[_WEIGHT_MAP] = {
        tensor: name.removesuffix(SOURCE_SUFFIX) + SUFFIX for tensor, name in weight_map.items()
    }
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"


def decode_index(data: bytes, where: str) -> bytes:
    """Return the source's index that `data`, the index of a wcodec directory, was made of; the
    mirror of encode_index(). Raises CorruptError.
    """
    _parse_index(data, SUFFIX, where)
    value = strict_json.parse(data, where)
    ours = (value.get(_METADATA) or {}).get(_OURS)
    text = ours.get(_SOURCE_INDEX) if isinstance(ours, dict) else None
    if not isinstance(text, str):
        raise CorruptError(f"{where}: has no text metadata.{_OURS}.{_SOURCE_INDEX}")
    try:
        source = base64.b64decode(text.encode("utf-8"), validate=True)
    except binascii.Error as error:
        raise CorruptError(f"{where}: metadata.{_OURS}.{_SOURCE_INDEX}: {error}") from None
    if strict_json.parse(encode_index(source, f"{where}: {_SOURCE_INDEX}"), where) != value:
        raise CorruptError(f"{where}: is not what its {_SOURCE_INDEX} becomes")
    return source


def _parse_index(data: bytes, suffix: str, where: str) -> dict[str, str]:
    """Return the weight map of an index: tensor to file name, all of them checked."""
    value = strict_json.parse(data, where)
    if not isinstance(value, dict) or not isinstance(value.get(_WEIGHT_MAP), dict):
        raise CorruptError(f"{where}: expected an object with an object {_WEIGHT_MAP!r}")
    if not isinstance(value.get(_METADATA), dict | None):
        raise CorruptError(f"{where}: {_METADATA!r} is no object")
    weight_map: dict[str, str] = value[_WEIGHT_MAP]
    for tensor, name in weight_map.items():
        if not isinstance(name, str):
            raise CorruptError(f"{where}: tensor {tensor!r:.200} is in {name!r:.80}, expected text")
        if os.path.isabs(name) or os.path.normpath(name) != name or name.split("/")[0] == "..":
            raise CorruptError(
                f"{where}: tensor {tensor!r:.200} is in {name!r:.200}, expected the name of a file "
                "in the directory"
            )
        if not name.endswith(suffix):
            raise CorruptError(
                f"{where}: tensor {tensor!r:.200} is in {name!r:.200}, expected a {suffix} file"
            )
    return weight_map


def _check_index(index: _Index, holds: Holdings) -> None:
    """Raise CorruptError unless every tensor that the index names is in the shard that it says, and
    in no other of its shards.
    """
    named = set(index.shards.values())
    missing = sorted(named - holds.keys())
    if missing:
        raise CorruptError(
            f"{index.path}: names {missing[0]!r:.200}, which is not in the directory"
        )
    owners = _owners(index.path, {shard: holds[shard] for shard in sorted(named)})
    for tensor, shard in index.shards.items():
        if owners.get(tensor) != shard and holds[shard] is not None:
            found = repr(owners[tensor]) if tensor in owners else "no shard"
            raise CorruptError(
                f"{index.path}: says that tensor {tensor!r:.200} is in {shard!r:.200}, "
                f"it is in {found:.200}"
            )


def _owners(where: str, holds: Holdings) -> dict[str, str]:
    """Map each tensor to its shard; CorruptError for one in two shards."""
    owners: dict[str, str] = {}
    for shard, tensors in holds.items():
        for tensor in tensors or ():
            if tensor in owners:
                raise CorruptError(
                    f"{where}: tensor {tensor!r:.200} is in {owners[tensor]!r:.200} and in "
                    f"{shard!r:.200}, expected it once"
                )
            owners[tensor] = shard
    return owners


def _check_numbers(directory: str, holds: Holdings, indexes: list[_Index], suffix: str) -> None:
    """Raise CorruptError for numbered shards of which some are missing, and for more of them than
    their index names.
    """
    named = {shard for index in indexes for shard in index.shards.values()}
    for numbers in _numbered(holds, suffix).values():
        shards = list(numbers.values())
        extra = [shard for shard in shards if shard not in named]
        if extra and len(extra) < len(shards):
            raise CorruptError(
                f"{join(directory, extra[0])}: is not named by the index, which names other shards "
                "numbered like it"
            )
        if extra:
            _check_complete(directory, numbers)
            _owners(directory, {shard: holds[shard] for shard in shards})


def _check_complete(directory: str, numbers: Mapping[tuple[int, int], str]) -> None:
    total = max(total for _, total in numbers)
    expected = {(number, total) for number in range(1, total + 1)}
    example = next(iter(numbers.values()))
    if total > len(numbers) or expected != numbers.keys():
        odd = sorted(f"{number}-of-{n}" for number, n in numbers.keys() ^ expected)
        raise CorruptError(
            f"{join(directory, example)}: one of {len(numbers)} shards, expected 1 to {total} "
            f"of {total}; missing or too many: {', '.join(odd[:5])}"
        )


def _numbered(holds: Holdings, suffix: str) -> dict[tuple[str, str], dict[tuple[int, int], str]]:
    """Group numbered shards that differ in their numbers only: (number, total) to shard."""
    groups: dict[tuple[str, str], dict[tuple[int, int], str]] = {}
    for shard in holds:
        match = re.fullmatch(_SHARD, shard.removesuffix(suffix))
        if match is not None:
            numbers = groups.setdefault((match["stem"], match["variant"] or ""), {})
            numbers[int(match["number"]), int(match["total"])] = shard
    return groups
