# SPDX-License-Identifier: Apache-2.0
"""A wcodec file that is a zip file as well: something follows the footer."""

import io
import zipfile

from support.container_builder import build

ERROR = "CorruptError"
MESSAGE = r"bytes after the footer"


def write(directory):
    archive = io.BytesIO(build().data)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("payload.py", "print()")
    path = directory / "model.wcodec"
    path.write_bytes(archive.getvalue())
    return path
