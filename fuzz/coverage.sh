#!/usr/bin/env bash
# Print how much of what decodes in the core, and of the readers in Python where coverage is installed, the corpora of the fuzz targets
# run, the seeds among them (build/fuzz/corpus, or the directory named): fuzz/coverage.sh [CORPUS]
set -euo pipefail
cd "$(dirname "$0")/.."
command -v clang++ >/dev/null || { echo "coverage needs clang++: apt-get install clang llvm" >&2; exit 1; }
corpus=${1:-build/fuzz/corpus}
build=build/coverage
export PATH=$PWD/.venv/bin:$PATH
CXX=clang++ cmake -S fuzz -B "$build" -G Ninja -DCOVERAGE=ON >/dev/null
ninja -C "$build" --quiet
python fuzz/seeds.py "$corpus"
profiles=() objects=()
for target in tables streams block_raw block_rans16 block_rans32 block_spatial; do
    mkdir -p "$corpus/$target"
    LLVM_PROFILE_FILE=$build/$target.profraw "$build/$target" -runs=0 -verbosity=0 "$corpus/$target" 2>/dev/null
    profiles+=("$build/$target.profraw")
    objects+=(-object "$build/$target")
done
llvm-profdata merge -o "$build/all.profdata" "${profiles[@]}"
llvm-cov export "$build/tables" "${objects[@]}" -instr-profile "$build/all.profdata" |
    python fuzz/decoding_functions.py
if python -c "import coverage" 2>/dev/null; then python -W ignore fuzz/readers_coverage.py "$corpus"; fi
