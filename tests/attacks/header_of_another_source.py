# SPDX-License-Identifier: Apache-2.0
"""A file whose source header names other tensors than it has."""

from support.container_builder import METADATA, build

ERROR = "CorruptError"
MESSAGE = r"source's header"


def write(directory):
    header = '{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    metadata = {**METADATA, "source": {"format": "safetensors", "header": header}}
    path = directory / "model.wcodec"
    path.write_bytes(build(metadata=metadata).data)
    return path
