# SPDX-License-Identifier: Apache-2.0
"""Sum up a report of llvm-cov, function by function, over those that decode in the scalar core and
with AVX2; print those with lines that were not run, then the sums. Each instance of a template
counts. Usage: llvm-cov report -show-functions ... | c++filt | decoding_functions.py
"""

import re
import sys

# Name, then regions, lines and branches: in all, missed, per cent.
ROW = re.compile(r"(.+?)" + 3 * r"\s+(\d+)\s+(\d+)\s+[\d.]+%")
DECODES = re.compile(
    r"decode|join|restore|inverse|read_|parse|take_|check_|scatter|fill_rows|look_up|symbols_of"
    r"|lifted|with_f7|escape_value|raw_bits_of|BitReader|unzigzag|expected<|all_zero"
    r"|find_frequencies|balance|unpack|lanes_to_units|tile_"
)
ENCODES = re.compile(r"encode|predict_units|avx512|tile_choice|rans32_choice|Search|choose")


def main() -> None:
    total = [0] * 4
    for line in sys.stdin:
        row = ROW.match(line)
        if not row or not DECODES.search(row[1]) or ENCODES.search(row[1]):
            continue
        lines, missed_lines, branches, missed_branches = map(int, row.groups()[3:7])
        if missed_lines:
            print(f"{missed_lines:4} of {lines:4} lines  {row[1][:120]}")
        for i, n in enumerate((lines, missed_lines, branches, missed_branches)):
            total[i] += n
    for what, n, missed in (("lines", *total[:2]), ("branches", *total[2:])):
        print(f"{n - missed} of {n} {what}, {(n - missed) / n:.1%}")


if __name__ == "__main__":
    main()
