# SPDX-License-Identifier: Apache-2.0
"""JSON with a key twice: parsers differ in which one they keep."""

import json

from support.container_builder import METADATA, build

ERROR = "CorruptError"
MESSAGE = r"metadata"


def write(directory):
    text = json.dumps(METADATA)
    path = directory / "model.wcodec"
    path.write_bytes(build(metadata=(text[:-1] + ', "duplicates": false}').encode()).data)
    return path
