# SPDX-License-Identifier: Apache-2.0
"""Sum up what `llvm-cov export` says of the functions that decode in the scalar core and with AVX2:
print what was not run, then the sums. Counted are places in the source, each once however many
instances of a template and inlined copies it has: *regions*, which are stretches of code without a
branch into them, and *branches*, which are the two ways out of each condition.
Usage: llvm-cov export ... | decoding_functions.py
"""

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

DECODES = re.compile(
    r"decode|join|restore|inverse|read_|parse|take_|check_|scatter|fill_rows|look_up|symbols_of"
    r"|lifted|with_f7|escape_value|raw_bits_of|BitReader|unzigzag|expected<|all_zero"
    r"|find_frequencies|balance|unpack|lanes_to_units|tile_"
)
ENCODES = re.compile(r"encode|predict_units|Search|choose|symbols_of|tile_byte")
OTHER_FILES = re.compile(r"avx512|_choice\.")


def main() -> None:
    functions = json.load(sys.stdin)["data"][0]["functions"]
    mangled = [function["name"].rpartition(":")[2] for function in functions]
    filt = subprocess.run(["c++filt"], input="\n".join(mangled), stdout=-1, text=True, check=True)
    names = filt.stdout.splitlines()
    regions: Counter[tuple[str, int, int]] = Counter()
    branches: defaultdict[tuple[str, int, int], Counter[bool]] = defaultdict(Counter)
    for function, name in zip(functions, names, strict=True):
        if OTHER_FILES.search(function["filenames"][0]):
            continue
        if not DECODES.search(name) or ENCODES.search(name):
            continue
        for line, col, _, _, count, file, _, kind in function["regions"]:
            if kind == 0:
                regions[function["filenames"][file], line, col] += count
        for line, col, _, _, yes, no, file, _, _ in function["branches"]:
            branches[function["filenames"][file], line, col] += Counter({True: yes, False: no})
    missed = [(place, "never run") for place, count in regions.items() if not count]
    for place, counts in branches.items():
        missed += [(place, f"never {way}") for way in (True, False) if not counts[way]]
    for (file, line, col), what in sorted(missed):
        text = Path(file).read_text().splitlines()[line - 1]
        print(f"{Path(file).name}:{line}:{col}: {what}: {text.strip()[:80]}")
    of_branches = sum(what != "never run" for _, what in missed)
    for what, n, missing in (
        ("regions", len(regions), len(missed) - of_branches),
        ("branches", 2 * len(branches), of_branches),
    ):
        print(f"{n - missing} of {n} {what}, {(n - missing) / n:.1%}")


if __name__ == "__main__":
    main()
