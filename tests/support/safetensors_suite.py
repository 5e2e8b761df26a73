# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin that puts wcodec's readers into the place of safetensors', for the tests of
safetensors itself. Every file that they read is encoded first, so what is opened is a wcodec file;
with WCODEC_SUITE_FORMAT=safetensors it is opened as it is.
"""

import io
import os
import tempfile

import safetensors
import safetensors.numpy
import safetensors.torch

import wcodec
import wcodec.numpy
import wcodec.torch

opened = []  # what was handed to wcodec
ENCODED = os.environ.get("WCODEC_SUITE_FORMAT", "wcodec") == "wcodec"


def encoded(path):
    """The path of a wcodec file with the tensors of this file."""
    opened.append(path)
    if not ENCODED or not os.path.exists(path):
        return path
    target = os.path.join(tempfile.mkdtemp(), "model.wcodec")
    wcodec.encode_checkpoint(path, target)
    return target


def encoded_bytes(data):
    opened.append(data)
    target = io.BytesIO()
    wcodec.encode_checkpoint(io.BytesIO(data), target)
    return target.getvalue()


def safe_open(filename, *args, **kwargs):
    return wcodec.safe_open(encoded(filename), *args, **kwargs)


def of_file(load):
    return lambda filename, *args, **kwargs: load(encoded(filename), *args, **kwargs)


def load_model(model, filename, *args, **kwargs):
    return wcodec.torch.load_model(model, encoded(filename), *args, **kwargs)


for module, ours in ((safetensors.torch, wcodec.torch), (safetensors.numpy, wcodec.numpy)):
    module.load_file = of_file(ours.load_file)
    if ENCODED:  # wcodec hands bytes of a safetensors file to safetensors
        module.load = lambda data, load=ours.load: load(encoded_bytes(data))
safetensors.torch.load_model = load_model
safetensors.safe_open = safe_open


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"wcodec opened {len(opened)}")
