# SPDX-License-Identifier: Apache-2.0
"""The Python tests of safetensors 0.8 that read, slice and fail, against wcodec's readers.

WCODEC_SAFETENSORS_TESTS names a directory for scripts/get_safetensors_tests.sh, which is run if the
tests are not there yet.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

ROOT = Path(__file__).parents[2]
FILES = ["simple", "pread_backend", "pt_comparison", "pt_model", "multithreaded"]
# Not run: what opens no file by name or needs another framework.
LEFT_OUT = {
    "handle": "reads through the private _safe_open_handle",
    "threadable": "is about writing safetensors files",
    "flax_comparison": "needs jax",
    "mlx_comparison": "needs mlx",
    "paddle_comparison": "needs paddle",
    "tf_comparison": "needs tensorflow",
}
# Test -> why wcodec differs.
EXCEPTIONS: dict[str, str] = {}


@pytest.fixture(scope="module")
def suite():
    directory = os.environ.get("WCODEC_SAFETENSORS_TESTS")
    if directory is None:
        pytest.skip("WCODEC_SAFETENSORS_TESTS names no directory")
    if not (Path(directory) / "tests").is_dir():
        script = ROOT / "scripts" / "get_safetensors_tests.sh"
        subprocess.run([str(script), directory], check=True, timeout=300)
    return Path(directory)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wcodec", "safetensors"])
def test_what_safetensors_tests_holds_for_wcodec(suite, tmp_path, kind):
    shutil.copytree(suite / "tests", tmp_path / "tests")
    names = {path.stem.removeprefix("test_") for path in (suite / "tests").glob("test_*.py")}
    assert names == {*FILES, *LEFT_OUT}
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    files = [f"tests/test_{name}.py" for name in FILES]
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-rfE", "--import-mode=importlib"]
    done = subprocess.run(
        [*pytest_run, "-p", "support.safetensors_suite", *files],
        cwd=tmp_path,  # they write into ./tests/data and ./
        env={**os.environ, "PYTHONPATH": path, "WCODEC_SUITE_FORMAT": kind},
        capture_output=True,
        text=True,
        timeout=600,
    )
    failed = re.findall(r"^(?:FAILED|ERROR) \S+?::(\S+)", done.stdout, re.M)
    assert sorted(failed) == sorted(EXCEPTIONS), done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 50
    assert int(re.search(r"wcodec opened (\d+)", done.stdout)[1]) > 40
