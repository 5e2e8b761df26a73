# SPDX-License-Identifier: Apache-2.0
"""A directory with a link to itself: walking it does not end."""

from support.model_directories import write_shards

ERROR = "ValueError"
MESSAGE = r"link to a directory that it is in"


def write(directory):
    model = write_shards(directory / "model", elements=100)
    (model / "again").symlink_to(model)
    return model
