# SPDX-License-Identifier: Apache-2.0
"""Every attack of this folder is refused with a named error, in little memory and time, whatever
it is handed to, and leaves nothing behind (README.md).
"""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ATTACKS = sorted(path for path in HERE.glob("*.py") if not path.name.startswith("test_"))
MAX_MIB = 96  # over the imports; each attack asks for gigabytes or more, or for no more than it is
MAX_SECONDS = 60  # a hang, on any machine

# Hands the file to everything that reads such files and prints what came of it. VmHWM is the peak
# of this process image alone.
CHILD = r"""
import io, json, os, re, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, 1 << 28))  # no disk is filled
import wcodec, wcodec.cli.main, wcodec.decode, wcodec.editing, wcodec.encode, wcodec.inspection
sys.path.insert(0, sys.argv[3])
from support.pipes import Pipe, Sink

def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])

path, out = sys.argv[1:3]
def pipe():
    with open(path, "rb") as file:
        return Pipe(file.read(), 1 << 20)

encoded = path.endswith((".wcodec", ".encoded"))
if encoded:
    calls = {
        "verify": lambda: wcodec.verify(path),
        "decode": lambda: wcodec.decode_checkpoint(path, out),
        "arrays": lambda: wcodec.decode_checkpoint(path),
    }
    if os.path.isfile(path):
        calls["pipe"] = lambda: wcodec.decode_checkpoint(pipe(), Sink())
else:
    calls = {"encode": lambda: wcodec.encode_checkpoint(path, out)}
    if os.path.isfile(path):
        calls["pipe"] = lambda: wcodec.encode_checkpoint(pipe(), Sink())
base, found = peak(), {}
for name, call in calls.items():
    try:
        call()
        found[name] = ["", "no error", []]
    except Exception as error:
        found[name] = [type(error).__name__, str(error), [k.__name__ for k in type(error).__mro__]]
sys.stderr = io.StringIO()
code = wcodec.cli.main.run(["decode" if encoded else "encode", path, "-o", out, "-q"])
print(json.dumps({
    "found": found, "peak": (peak() - base) / 1024, "code": code,
    "lines": sys.stderr.getvalue().splitlines(),
}))
"""


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", ATTACKS, ids=lambda path: path.stem)
def test_an_attack_is_refused(path, tmp_path):
    attack = load(path)
    target = attack.write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-c", CHILD, target, tmp_path / "out", HERE.parent]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MAX_SECONDS)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for name, (kind, message, bases) in result["found"].items():
        assert "WcodecError" in bases or attack.ERROR == kind, f"{name}: {kind}: {message}"
    kind, message, bases = next(iter(result["found"].values()))
    assert attack.ERROR in bases, f"{kind}: {message}"
    assert re.search(attack.MESSAGE, message), message
    assert len(message) < 1000
    assert result["code"] in (1, 2)
    assert len(result["lines"]) == 1
    assert result["peak"] < MAX_MIB
    assert sorted(tmp_path.rglob("*")) == before, "something was left behind"


def test_there_are_many():
    assert len(ATTACKS) >= 25
    assert all(load(path).__doc__ for path in ATTACKS)
