# SPDX-License-Identifier: Apache-2.0
"""An index whose shards lie outside its directory."""

import json

from support.model_directories import write_shards

ERROR = "CorruptError"
MESSAGE = r"expected the name of a file in the directory"


def write(directory):
    model = write_shards(directory / "model", elements=100)
    index = model / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    tensor = next(iter(value["weight_map"]))
    value["weight_map"][tensor] = "../../etc/passwd.safetensors"
    index.write_text(json.dumps(value))
    return model
