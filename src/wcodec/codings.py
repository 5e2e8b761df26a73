# SPDX-License-Identifier: Apache-2.0
"""Which codings the blocks of a layer have, and what others would have taken."""

from __future__ import annotations

from typing import Any

import numpy as np

from wcodec.block_header import block_sizes
from wcodec.codec import batch
from wcodec.codec.plan import BLOCK_ELEMENTS, estimate_codings
from wcodec.codec.spatial import SpatialOptions
from wcodec.container import KIND_REFERENCE, Layer, Reader
from wcodec.decode import decode_budget
from wcodec.windows import decode_windows


def codings_of(reader: Reader, name: str) -> dict[str, list[dict[str, Any]]]:
    """The `blocks` and `estimates` of a layer, as info() gives them; both empty for a reference.

    Raises CorruptError if the beginning of the layer cannot be decoded.
    """
    if reader.layers[name].kind == KIND_REFERENCE:
        return {"blocks": [], "estimates": []}
    layer = reader.open_layer(name)
    blocks = _blocks(layer)
    level = "max" if reader.metadata.options.get("level") == "max" else "default"
    return {"blocks": blocks, "estimates": _estimates(level, layer)}


def _blocks(layer: Layer) -> list[dict[str, Any]]:
    headers, sizes = layer.headers, block_sizes(layer.headers)
    kinds = headers["coding"].astype(np.uint16) << 8 | headers["form"]
    found = []
    for kind in np.unique(kinds).tolist():
        chosen = kinds == kind
        found.append(
            {
                "coding": batch.CODING_NAMES.get(kind >> 8, "row groups"),
                "form": batch.form_name(kind >> 8, kind & 255),
                "n_blocks": int(chosen.sum()),
                "bytes": int(sizes[chosen].sum()),
            }
        )
    return sorted(found, key=lambda block: -block["bytes"])


def _estimates(level: str, layer: Layer) -> list[dict[str, Any]]:
    head = layer.head
    sample = next(decode_windows(layer, decode_budget(None)), None)
    if sample is None:
        return []
    estimates = estimate_codings(
        head.dtype,
        head.shape,
        head.data_bytes,
        sample,
        level,
        BLOCK_ELEMENTS[level],
        SpatialOptions(),
    )
    by_size = sorted(estimates.items(), key=lambda item: item[1])
    return [{"coding": batch.CODING_NAMES[coding], "bytes": size} for coding, size in by_size]
