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
from subprocess import PIPE

import pytest

HERE = Path(__file__).parent
ATTACKS = sorted(path for path in HERE.glob("*.py") if not path.name.startswith("test_"))
MAX_MIB = 96  # over the imports; each attack asks for gigabytes or more, or for no more than it is
MAX_SECONDS = 60  # a hang, on any machine

# For each line of input, hands a file to everything that reads such files and prints what came of
# it, in a process of its own that has imported everything already: VmHWM is the peak since a fork.
SERVER = r"""
import io, json, os, re, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, 1 << 28))  # no disk is filled
import wcodec, wcodec.cli.main, wcodec.decode, wcodec.editing, wcodec.encode, wcodec.inspection
sys.path.insert(0, sys.argv[1])
from support.pipes import Pipe, Sink

def peak():
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])

def attack(path, out):
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
            bases = [kind.__name__ for kind in type(error).__mro__]
            found[name] = [type(error).__name__, str(error), bases]
    sys.stderr = io.StringIO()
    code = wcodec.cli.main.run(["decode" if encoded else "encode", path, "-o", out, "-q"])
    return {
        "found": found, "peak": (peak() - base) / 1024, "code": code,
        "lines": sys.stderr.getvalue().splitlines(),
    }

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        signal.alarm(int(sys.argv[2]))
        print(json.dumps(attack(*json.loads(line))), flush=True)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if status:
        print(json.dumps({"status": status}), flush=True)
"""


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server():
    command = [sys.executable, "-c", SERVER, HERE.parent, str(MAX_SECONDS)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        yield process
        process.stdin.close()


@pytest.mark.parametrize("path", ATTACKS, ids=lambda path: path.stem)
def test_an_attack_is_refused(path, tmp_path, server):
    attack = load(path)
    target = attack.write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    server.stdin.write(json.dumps([str(target), str(tmp_path / "out")]) + "\n")
    server.stdin.flush()
    result = json.loads(server.stdout.readline())
    assert "status" not in result, f"killed, or a hang: {result}"
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
