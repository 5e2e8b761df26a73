# SPDX-License-Identifier: Apache-2.0
"""Many readers of a file, in threads and processes, while it is replaced, and at the end of the
interpreter. Forks are in test_checkpoints.py, Ctrl-C is in tests/cli/test_directories.py.
"""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.arrays import gaussian

import wcodec
from wcodec import safe_open


@pytest.fixture
def versions(tmp_path):
    """Two files of the same layers with other values, and what they hold."""
    found = []
    for seed in (1, 2):
        arrays = {str(i): gaussian("F32", 70_000, 10 * seed + i) for i in range(6)}
        wcodec.encode_checkpoint(arrays, tmp_path / f"v{seed}.wcodec")
        found.append({name: array.tobytes() for name, array in arrays.items()})
    return found


def as_bytes(arrays) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


def test_many_readers_of_one_file(versions, tmp_path):
    path = tmp_path / "v1.wcodec"
    with safe_open(path, framework="np") as shared, ThreadPoolExecutor(8) as pool:
        names = list(versions[0]) * 8
        one_handle = list(pool.map(lambda name: shared.get_tensor(name).tobytes(), names))
        whole = list(pool.map(lambda _: wcodec.decode_checkpoint(path, threads=2), range(16)))
    assert one_handle == [versions[0][name] for name in names]
    assert all(as_bytes(arrays) == versions[0] for arrays in whole)


def test_readers_while_the_file_is_replaced(versions, tmp_path):
    """Each reader sees one version whole; one that has opened the file keeps its version."""
    target = tmp_path / "target.wcodec"
    target.write_bytes((tmp_path / "v1.wcodec").read_bytes())
    stop = threading.Event()

    def replace() -> None:
        arrays = [wcodec.decode_checkpoint(tmp_path / f"v{seed}.wcodec") for seed in (2, 1)]
        while not stop.is_set():
            for version in arrays:
                wcodec.encode_checkpoint(version, target, threads=1)

    with ThreadPoolExecutor(1) as pool, safe_open(target, framework="np") as early:
        writer = pool.submit(replace)
        try:
            seen = [as_bytes(wcodec.decode_checkpoint(target, threads=1)) for _ in range(60)]
            kept = {name: early.get_tensor(name).tobytes() for name in early.keys()}  # noqa: SIM118
        finally:
            stop.set()
        writer.result()
    assert all(arrays in versions for arrays in seen)
    assert kept == versions[0]


def test_processes_of_threads(versions, tmp_path):
    code = (
        "import sys, wcodec, hashlib\n"
        "arrays = wcodec.decode_checkpoint(sys.argv[1], threads=4)\n"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in arrays.values())).hexdigest())\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "v1.wcodec")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert len(set(outputs)) == 1


@pytest.mark.parametrize("daemon", [True, False])
def test_the_end_of_the_interpreter(daemon):
    """Threads that are at work when the main thread ends neither crash nor hang the process."""
    code = f"""
import threading
import wcodec, numpy
big = {{str(i): numpy.random.default_rng(i).normal(size=200_000).astype("f4") for i in range(4)}}
started = threading.Event()
def work():
    for _ in range(3):
        started.set()
        data = wcodec.encode_array(big["0"], threads=2)
        wcodec.decode_array(data, threads=2)
for _ in range(3):
    threading.Thread(target=work, daemon={daemon}).start()
started.wait()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
