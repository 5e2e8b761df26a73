# SPDX-License-Identifier: Apache-2.0
"""Print how much of the readers in Python the corpora of fuzz/readers.py run: lines and branches of
the functions that some input enters, file by file. Usage: readers_coverage.py CORPUS
"""

import json
import sys
import types
from contextlib import nullcontext
from pathlib import Path
from tempfile import NamedTemporaryFile

import coverage

FILES = ("container/*", "zstd_frame.py", "strict_json.py", "safetensors_*.py")


def main() -> None:
    # Without what atheris does to the modules, which would be counted.
    sys.modules["atheris"] = types.ModuleType("atheris")
    sys.modules["atheris"].instrument_imports = lambda **_: nullcontext()
    measured = coverage.Coverage(branch=True, source_pkgs=["wcodec"], data_file=None)
    measured.start()
    import readers

    readers.without_checksums()
    for name in ("container", "safetensors"):
        for path in sorted(Path(sys.argv[1], name).iterdir()):
            getattr(readers, name)(path.read_bytes())
    measured.stop()
    with NamedTemporaryFile() as file:
        include = [f"*/wcodec/{pattern}" for pattern in FILES]
        measured.json_report(include=include, outfile=file.name)
        found = json.load(file)["files"]
    for path, report in found.items():
        functions = [f for name, f in report["functions"].items() if name and f["executed_lines"]]
        counts = [function["summary"] for function in functions]
        n = sum(count["num_statements"] + count["num_branches"] for count in counts)
        run = sum(count["covered_lines"] + count["covered_branches"] for count in counts)
        missed = sorted(line for function in functions for line in function["missing_lines"])
        if n:
            print(f"{run} of {n}, {run / n:.1%}  {path}  lines never run: {missed}")


if __name__ == "__main__":
    main()
