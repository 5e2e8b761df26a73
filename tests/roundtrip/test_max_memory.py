# SPDX-License-Identifier: Apache-2.0
"""max_memory: what a run holds stays below it, measured in fresh processes, and the file is the
same.
"""

import re
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

import wcodec

MIB = 1 << 20
# VmHWM is the peak of this process image alone; ru_maxrss would inherit that of its parent.
CHILD = """
import re, sys
import wcodec.encode, wcodec.decode
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
base = peak()
{call}(sys.argv[1], sys.argv[2], max_memory=int(sys.argv[3]), threads=2)
print((peak() - base) / 1024)
"""


def peak(call: str, source, target, max_memory: int) -> float:
    """Peak memory in MiB over the imports of a call in a fresh process."""
    command = [sys.executable, "-c", CHILD.format(call=call), source, target, str(max_memory)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def gaussian():
    random = np.random.default_rng(1)
    return random.standard_normal((3000, 10_000), dtype=np.float32).astype(np.float16)


def bytes_that_zstd_likes():
    return np.random.default_rng(1).integers(0, 16, (6000, 10_000), dtype=np.uint8)


def rows_of_two_kinds():
    words = np.random.default_rng(1).standard_normal((30_000, 512), dtype=np.float32)
    words.view(np.uint32)[::2] &= 0xFFFF0000
    return words


@pytest.mark.parametrize(
    ("array", "encoding", "decoding"),
    [(gaussian, 75, 58), (bytes_that_zstd_likes, 75, 58), (rows_of_two_kinds, 124, 108)],
)
def test_peak_memory(array, encoding, decoding, tmp_path):
    source, encoded, restored = (tmp_path / name for name in ("a.safetensors", "b", "c"))
    save_file({"w": array()}, source)
    assert peak("wcodec.encode.encode_checkpoint", source, encoded, encoding * MIB) < encoding
    assert peak("wcodec.decode.decode_checkpoint", encoded, restored, decoding * MIB) < decoding
    assert restored.read_bytes() == source.read_bytes()
    wcodec.encode_checkpoint(source, restored)
    assert restored.read_bytes() == encoded.read_bytes()


def test_too_little_memory_is_refused_with_the_least(tmp_path):
    source, target = tmp_path / "a.safetensors", tmp_path / "b"
    save_file({"w": np.zeros(10, np.float32)}, source)
    with pytest.raises(ValueError, match="max_memory is 1000 bytes, expected at least") as caught:
        wcodec.encode_checkpoint(source, target, max_memory=1000)
    least = int(re.search(r"(\d+)$", str(caught.value))[1])
    with pytest.raises(ValueError, match=f"at least {least}"):
        wcodec.encode_checkpoint(source, target, max_memory=least - 1)
    wcodec.encode_checkpoint(source, target, max_memory=least)
    with pytest.raises(ValueError, match="max_memory is 1000 bytes"):
        wcodec.decode_checkpoint(target, max_memory=1000)


def test_a_layer_that_needs_more_is_named(tmp_path):
    source, target = tmp_path / "a.safetensors", tmp_path / "b"
    save_file({"w": rows_of_two_kinds()}, source)
    with pytest.raises(ValueError, match=r"layer 'w': .* needs (\d+) bytes more of max_memory"):
        wcodec.encode_checkpoint(source, target, max_memory=90 * MIB)
    assert not target.exists()
    wcodec.encode_checkpoint(source, target)
    with pytest.raises(ValueError, match="layer 'w'"):
        wcodec.decode_checkpoint(target, tmp_path / "c", max_memory=60 * MIB)
    assert not (tmp_path / "c").exists()
