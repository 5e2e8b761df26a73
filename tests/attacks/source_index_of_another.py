# SPDX-License-Identifier: Apache-2.0
"""A wcodec directory whose index keeps the index of another model, to be restored in its place."""

import base64
import json

from support.model_directories import write_shards

import wcodec

ERROR = "CorruptError"
MESSAGE = r"is not what its source_index becomes"


def write(directory):
    write_shards(directory / "source", elements=100)
    model = directory / "model.encoded"
    wcodec.encode_checkpoint(directory / "source", model)
    index = model / "model.wcodec.index.json"
    value = json.loads(index.read_text())
    other = {"weight_map": {"x": "x.safetensors"}}
    text = base64.b64encode(json.dumps(other).encode()).decode()
    value["metadata"]["wcodec"]["source_index"] = text
    index.write_text(json.dumps(value))
    return model
