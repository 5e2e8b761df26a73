# SPDX-License-Identifier: Apache-2.0
"""A named pipe where a file is expected: opening it would wait for ever."""

import os

from support.model_directories import write_shards

ERROR = "ValueError"
MESSAGE = r"neither a file nor a directory"


def write(directory):
    model = write_shards(directory / "model", elements=100)
    os.mkfifo(model / "config.json")
    return model
