# SPDX-License-Identifier: Apache-2.0
"""Names of tensors where a transformers model's differ from those of its files: transformers 5
joins the experts of a layer, splits and renames projections and so on, while it loads.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

import torch

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def in_names_of(
    model: torch.nn.Module, state: Mapping[str, Any], strict: bool
) -> tuple[Mapping[str, Any], list[str]]:
    """The tensors under the model's own names, and the names of those whose shapes differ.

    Only a model of transformers 5 that lacks one of the names is converted, by transformers: all
    its tensors are decoded then. Raises RuntimeError for shapes that differ with `strict`.
    """
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return state, []
    if int(transformers.__version__.split(".")[0]) < 5 or state.keys() <= model.state_dict().keys():
        return state, []
    floats = {tensor.dtype for tensor in state.values()} & _FLOATS
    widest = functools.reduce(torch.promote_types, floats) if floats else "auto"  # loses nothing
    converted, found = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=state,
        dtype=widest,
        ignore_mismatched_sizes=not strict,
        output_loading_info=True,
    )
    wrong = [item[0] if isinstance(item, tuple) else item for item in found["mismatched_keys"]]
    absent = {*found["missing_keys"], *wrong}
    unexpected = {name: state[name] for name in found["unexpected_keys"]}
    own = {name: t for name, t in converted.state_dict().items() if name not in absent}
    return {**own, **unexpected}, sorted(wrong)
