# SPDX-License-Identifier: Apache-2.0
"""The metadata of a file: one JSON object with exactly the keys of docs/format.md section 3.

Parsing is strict (strict_json.py, then every key and type here); packing is deterministic and keeps
the order of the caller's own mappings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from wcodec import strict_json
from wcodec.checksum import crc32
from wcodec.container import frame
from wcodec.container.records import Header, check_crc, check_zero
from wcodec.errors import CorruptError, UnsupportedError
from wcodec.limits import ReadLimits

_WHERE = "metadata"
_SOURCE_FORMAT = "safetensors"
_KEYS = ("wcodec_version", "model_name", "options", "metadata", "duplicates", "source")
_SOURCE_KEYS = ("format", "header")


class Metadata(NamedTuple):
    """What a file says about itself as a whole.

    `options` is what the encoder was asked for (any JSON), `metadata` the user's own, `duplicates`
    whether reference records may occur, and `source_header` the JSON header of the safetensors file
    that was encoded, verbatim with its padding, or None if there was no such file.
    """

    wcodec_version: str
    model_name: str | None = None
    options: Mapping[str, Any] = MappingProxyType({})
    metadata: Mapping[str, str] = MappingProxyType({})
    duplicates: bool = False
    source_header: str | None = None

    def pack(self) -> bytes:
        """Return the JSON; raises ValueError or TypeError for what JSON in UTF-8 cannot hold."""
        source = None
        if self.source_header is not None:
            source = {"format": _SOURCE_FORMAT, "header": self.source_header}
        value = {
            "wcodec_version": self.wcodec_version,
            "model_name": self.model_name,
            "options": dict(self.options),
            "metadata": dict(self.metadata),
            "duplicates": self.duplicates,
            "source": source,
        }
        _check(value, ValueError)
        _check_options(dict(self.options))
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8")

    @staticmethod
    def unpack(data: bytes) -> Metadata:
        """Return the metadata of the JSON `data`; the mirror of pack(). Raises CorruptError,
        UnsupportedError.
        """
        value = strict_json.parse(data, _WHERE)
        _check(value, CorruptError)
        source = value["source"]
        if source is not None and source["format"] != _SOURCE_FORMAT:
            raise UnsupportedError(
                f"{_WHERE}: source is of format {source['format']!r}, known is {_SOURCE_FORMAT!r}"
            )
        return Metadata(
            wcodec_version=value["wcodec_version"],
            model_name=value["model_name"],
            options=value["options"],
            metadata=value["metadata"],
            duplicates=value["duplicates"],
            source_header=None if source is None else source["header"],
        )


def check_stored_size(header: Header, limits: ReadLimits) -> None:
    """Raise LimitError if the metadata that `header` declares is too large."""
    size = max(header.metadata_stored_bytes, header.metadata_bytes)
    limits.check("metadata_bytes", size, f"{_WHERE}: size")


def unpack_stored(data: bytes, header: Header) -> Metadata:
    """Return the metadata in `data`, all that lies between the header and the first record. Raises
    CorruptError.
    """
    stored = data[: header.metadata_stored_bytes]
    check_crc(_WHERE, crc32(stored), header.metadata_crc)
    check_zero(data[header.metadata_stored_bytes :], _WHERE)
    content = frame.load(stored, header.metadata_bytes, header.metadata_zstd, _WHERE)
    return Metadata.unpack(content)


def _check_options(options: dict[str, Any]) -> None:
    # What a reader would refuse must not be written: {1: 0, "1": 0} gives one object with the key
    # "1" twice.
    text = json.dumps(options, allow_nan=False)
    try:
        strict_json.parse(text.encode("utf-8"), f"{_WHERE}: 'options'")
    except CorruptError as error:
        raise ValueError(str(error)) from error


def _check(value: Any, error: type[Exception]) -> None:
    _check_keys(value, _KEYS, _WHERE, error)
    _check_type(value, "wcodec_version", str, error)
    if value["model_name"] is not None:
        _check_type(value, "model_name", str, error)
    _check_type(value, "options", dict, error)
    _check_type(value, "metadata", dict, error)
    for key, item in value["metadata"].items():
        if not isinstance(key, str) or not isinstance(item, str):
            raise error(f"{_WHERE}: 'metadata' maps {key!r} to {item!r:.80}, expected text to text")
    _check_type(value, "duplicates", bool, error)
    source = value["source"]
    if source is not None:
        _check_keys(source, _SOURCE_KEYS, f"{_WHERE}: 'source'", error)
        _check_type(source, "format", str, error)
        _check_type(source, "header", str, error)


def _check_keys(value: Any, expected: tuple[str, ...], where: str, error: type[Exception]) -> None:
    if not isinstance(value, dict):
        raise error(f"{where}: is {type(value).__name__}, expected an object")
    if value.keys() != set(expected):
        wrong = sorted(value.keys() ^ set(expected))
        raise error(f"{where}: keys missing or unknown: {', '.join(wrong):.200}")


def _check_type(value: dict[str, Any], key: str, kind: type, error: type[Exception]) -> None:
    if not isinstance(value[key], kind):
        raise error(f"{_WHERE}: {key!r} is {type(value[key]).__name__}, expected {kind.__name__}")
