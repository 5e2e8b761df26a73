# SPDX-License-Identifier: Apache-2.0
"""Remove one check at a time from what reads files, and see whether a test fails.

A copy of the tree gets checks that can be removed by an environment variable
(removable_checks.py). The fast tests run once there to record which test makes which check fire;
then each check is removed in turn, for the tests that make it fire, the shortest first, until one
fails. What was caught is kept in RESULTS, so a second run goes on; what was not is tried again.

    .venv/bin/python tools/check_removal.py --seconds 600       # or --sample 50, --only src/
    .venv/bin/python tools/check_removal.py --record tests/unit/test_batch.py   # a new test
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from removable_checks import Check, instrument_cpp, instrument_python

ROOT = Path(__file__).parents[1]
COPY = ROOT / "build" / "removal"
FIRED = ROOT / "build" / "removal_fired.jsonl"
RESULTS = ROOT / "build" / "removal_results.json"
TESTS = [f"tests/{name}" for name in ("unit", "attacks", "format", "parity", "roundtrip", "cli")]
TESTS += ["tests/gpu/test_emulated_spatial.py"]
PYTHON = [
    "src/wcodec/container/*.py", "src/wcodec/codec/*.py", "src/wcodec/limits.py",
    "src/wcodec/safetensors_file.py", "src/wcodec/strict_json.py", "src/wcodec/zstd_frame.py",
]  # fmt: skip
CPP = [
    "core/bindings.cpp", "core/block.cpp", "core/frequency_table.cpp", "core/level_table.cpp",
    "core/rans16_avx2.cpp", "core/rans16_scalar.cpp", "core/rans32_block.cpp",
    "core/rans32_units.[ch]pp", "core/spatial_block.cpp", "core/token_coder.cpp",
]  # fmt: skip
CHUNKS = (4, 20, 100, 400)  # so many tests are tried together, one chunk after the other

PROBE_PY = """
import json, os
REMOVED = int(os.environ.get("WCODEC_REMOVED", "-1"))
FIRED = os.environ.get("WCODEC_FIRED")
seen = set()

def write(record):
    with open(FIRED, "a") as file:
        file.write(json.dumps(record) + "\\n")

def stands(number):
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    if FIRED and test and (number, test) not in seen:
        seen.add((number, test))
        write([number, test])
    return number != REMOVED

def serve():
    import signal, sys, time
    import hypothesis, ml_dtypes, numpy, pytest, safetensors, wcodec.cli.main, wcodec.decode
    sys.path.insert(0, "tests")
    import support.golden_blocks
    for line in sys.stdin:
        removed, seconds, options = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            log = os.open("build/log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ["WCODEC_REMOVED"] = str(removed)  # for the core, which has not looked yet
            globals()["REMOVED"] = removed
            os._exit(pytest.main(options))
        end = time.monotonic() + seconds
        while not (found := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < end:
            time.sleep(0.02)
        if not found[0]:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        status = os.waitstatus_to_exitcode(found[1]) if found[0] else None
        print(json.dumps(status), flush=True)

def pytest_runtest_logreport(report):
    if FIRED and (report.when == "call" or report.failed):
        write({"test": report.nodeid, "passed": report.passed, "seconds": report.duration})
"""
PROBE_HPP = r"""
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
namespace {
inline bool stands(unsigned number) {
    static const char* const fired = getenv("WCODEC_FIRED");
    static const char* const text = getenv("WCODEC_REMOVED");
    static const long long removed = text ? atoll(text) : -1;
    static unsigned last_tests[1 << 16];  // by number: the hash of the test that fired it last
    const char* test = fired ? getenv("PYTEST_CURRENT_TEST") : nullptr;
    if (!test) return number != removed;
    unsigned hash = number;
    for (const char* c = test; *c; ++c) hash = hash * 31 + static_cast<unsigned char>(*c);
    if (last_tests[number % (1 << 16)] == hash) return true;
    last_tests[number % (1 << 16)] = hash;
    if (FILE* file = fopen(fired, "a")) {
        fprintf(file, "[%u, \"", number);
        for (const char* c = test; c < strrchr(test, '(') - 1; ++c)
            fprintf(file, *c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
        fprintf(file, "\"]\n");
        fclose(file);
    }
    return true;
}
}
"""


def copy_tree() -> list[Check]:
    """Bring the copy up to date, and return the checks in it."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout
    sources = {path for pattern in PYTHON + CPP for path in ROOT.glob(pattern)}
    checks: list[Check] = []
    for name in sorted(os.fsdecode(names).split("\0")):
        path = ROOT / name
        if not path.is_file():
            continue
        data = path.read_bytes()
        if path in sources:
            instrument = instrument_python if path.suffix == ".py" else instrument_cpp
            text, found = instrument(name, data.decode())
            data = text.encode()
            checks += found
        write_changed(COPY / name, data)
        (COPY / name).chmod(path.stat().st_mode)
    write_changed(COPY / "core" / "removal_probe.hpp", PROBE_HPP.encode())
    return checks


def write_changed(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def install() -> None:
    """Install the copy into an environment of its own, which sees the packages of .venv."""
    python = COPY / ".venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", COPY / ".venv"], check=True)
    packages = next((COPY / ".venv" / "lib").glob("python3*/site-packages"))
    ours = next((ROOT / ".venv" / "lib").glob("python3*/site-packages"))
    (packages / "of_the_other.pth").write_text(str(ours))
    (packages / "removal_probe.py").write_text(PROBE_PY)
    environment = os.environ | {
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "SKBUILD_BUILD_DIR": "build",
    }
    environment.pop("SKBUILD_CMAKE_DEFINE", None)
    command = ["-m", "pip", "install", "-qq", "--no-build-isolation", "--no-deps", "-e", "."]
    subprocess.run([python, *command], cwd=COPY, check=True, env=environment)


OPTIONS = ["-m", "not slow", "-q", "-p", "no:cacheprovider", "-p", "removal_probe"]


def record(tests: list[str]) -> None:
    """Run tests without removing anything, and write down what fires."""
    subprocess.run(
        [COPY / ".venv" / "bin" / "python", "-m", "pytest", *OPTIONS, *tests],
        cwd=COPY,
        env=os.environ | {"WCODEC_FIRED": str(FIRED)},
    )


class Server:
    """A process that has imported what tests need, and forks for each run of some."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [COPY / ".venv" / "bin" / "python", "-c", "import removal_probe as p; p.serve()"],
            cwd=COPY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, removed: int, tests: list[str], seconds: float) -> int | None:
        """Return the exit status of pytest; None if it did not end in time."""
        (COPY / "build" / "tests").write_text("\n".join(tests))
        request = [removed, seconds, [*OPTIONS, "-x", "@build/tests"]]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status: int | None = json.loads(self._process.stdout.readline())
        return status


def read_fired() -> tuple[dict[int, set[str]], dict[str, float]]:
    """Return which tests make each check fire, and the seconds of those that passed."""
    fired: dict[int, set[str]] = defaultdict(set)
    seconds: dict[str, float] = {}
    for line in FIRED.read_text().splitlines():
        record = json.loads(line)
        if isinstance(record, list):
            fired[record[0]].add(record[1])
        elif record["passed"]:
            seconds[record["test"]] = record["seconds"]
        else:
            seconds.pop(record["test"], None)
    return fired, seconds


def try_without(
    server: Server, check: Check, tests: list[str], seconds: dict[str, float]
) -> tuple[str, str]:
    """Return what became of a removal: caught or not, and how."""
    left = sorted(tests, key=seconds.__getitem__)
    if not left:
        return "missed", "no test makes it fire"
    for size in CHUNKS:
        some, left = left[:size], left[size:]
        if not some:
            break
        limit = 60 + 10 * sum(map(seconds.__getitem__, some))
        status = server.run(check.number, some, limit)
        if status in (2, 3, 4, 5):
            raise SystemExit(f"pytest ended with {status}: see {COPY / 'build' / 'log'}")
        if status != 0:
            text = (COPY / "build" / "log").read_text(errors="replace")
            failed = re.findall(r"^FAILED (\S+)", text, re.M)
            how = failed[0] if failed else "a hang" if status is None else f"status {status}"
            return "caught", how
    return "missed", f"{len(tests)} tests make it fire, none fails without it"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--record", nargs="*", help="record these tests (all of the fast ones)")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--sample", type=int, help="try so many checks, drawn with seed 1")
    parser.add_argument("--only", default="", help="only files whose path begins so")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    checks = copy_tree()
    install()
    if options.record is not None or not FIRED.exists():
        record(options.record or TESTS)
    fired, seconds = read_fired()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    server = Server()
    chosen = [check for check in checks if check.path.startswith(options.only)]
    if options.sample is not None:
        chosen = random.Random(1).sample(chosen, min(options.sample, len(chosen)))
    for check in chosen:
        key = str(check.number)
        if time.monotonic() > end:
            break
        if results.get(key, {}).get("outcome") != "caught":
            tests = [test for test in fired[check.number] if test in seconds]
            outcome, how = try_without(server, check, tests, seconds)
            results[key] = {**check._asdict(), "outcome": outcome, "how": how}
            RESULTS.write_text(json.dumps(results, indent=1))
        if results[key]["outcome"] == "missed":
            print(
                f"{check.path}:{check.line}: {check.text[:90]}: {results[key]['how']}", flush=True
            )
    for kind in (".py", ".cpp", ".hpp"):
        found = [c for c in checks if c.path.endswith(kind)]
        tried = [results[str(c.number)] for c in found if str(c.number) in results]
        caught = sum(result["outcome"] == "caught" for result in tried)
        print(f"{kind}: {len(found)} checks, {len(tried)} removed, {caught} caught by a test")


if __name__ == "__main__":
    main()
