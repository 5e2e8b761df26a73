# SPDX-License-Identifier: Apache-2.0
"""Small tensors are encoded by several threads before it is their turn."""

import io
import threading
import time

import numpy as np
import pytest

import wcodec
from wcodec.codec.spatial import SpatialOptions
from wcodec.layer_encoder import EncodeOptions, encode_ahead, encode_budget
from wcodec.sources import ArrayTensor

OPTIONS = EncodeOptions.of("default", SpatialOptions(), None, True, encode_budget(4))


class Watched(ArrayTensor):
    """Notes when its bytes are asked for; may be slow or fail then."""

    events: list[str]

    def __init__(self, name, array, events, error=None):
        super().__init__(name, array)
        self.events = events
        self.error = error

    def memory(self):
        self.events.append(self.name)
        if self.error is not None:
            raise self.error
        return super().memory()


def array(i, n=3000):
    return np.random.default_rng(i).standard_normal(n).astype(np.float32)


def test_layers_come_in_order_and_are_encoded_by_other_threads():
    threads = set()

    class Slow(Watched):
        def memory(self):
            threads.add(threading.get_ident())
            time.sleep(0.02 if int(self.name) % 2 else 0)
            return super().memory()

    tensors = [Slow(str(i), array(i), []) for i in range(20)]
    names = [layer.head.name for layer in encode_ahead(tensors, OPTIONS)]
    assert names == [str(i) for i in range(20)]
    assert len(threads) == 4
    assert threading.get_ident() not in threads


def test_no_more_than_fit_a_window():
    events: list[str] = []
    size = OPTIONS.budget.window_bytes // 4
    zeros = np.zeros(size, np.uint8)
    tensors = [Watched(str(i), zeros, events) for i in range(12)]
    layers = encode_ahead(tensors, OPTIONS)
    assert next(layers).head.name == "0"
    time.sleep(0.1)
    assert len(set(events)) <= 4
    layers.close()
    assert len(set(events)) == 4


def test_an_error_comes_in_its_turn():
    tensors = [Watched(str(i), array(i), [], OSError("gone") if i == 2 else None) for i in range(9)]
    layers = encode_ahead(tensors, OPTIONS)
    assert [next(layers).head.name for _ in range(2)] == ["0", "1"]
    with pytest.raises(OSError, match="gone"):
        next(layers)


def test_none():
    assert list(encode_ahead([], OPTIONS)) == []


def test_the_same_bytes_by_any_number_of_threads():
    """Small and large tensors in turn, equal ones, empty ones and one that is not contiguous."""
    arrays = {f"small {i}": array(i, 100 * i) for i in range(30)}
    arrays["large"] = array(99, 2_500_000)
    arrays["again"] = arrays["small 7"]
    arrays |= {f"more {i}": array(i, 70_000).reshape(70, 1000).T for i in range(5)}
    arrays["large, too"] = array(98, 2_100_000)
    files = []
    for threads in (1, 2, 9):
        file = io.BytesIO()
        wcodec.encode_checkpoint(arrays, file, threads=threads, duplicates=True)
        files.append(file.getvalue())
    assert files[0] == files[1] == files[2]
    file.seek(0)
    decoded = wcodec.decode_checkpoint(file)
    assert all(np.array_equal(decoded[name], arrays[name]) for name in arrays)
